"""The same work with PySpark Structured Streaming: `exact`, or `windows` as its guide recommends them.

exact    four exact windows for cards with applyInPandasWithState, the model for whole batches, the predictions topic
         and Cassandra (connector) from foreachBatch. No terminals: Spark 3.5 chains no second arbitrary state behind
         the first. No late, duplicate or moved records, no reasons.
windows  one hopping window (1 hour, every 5 minutes) with a watermark: one row a card and window, not one an event.

Speaks as app/lab/bench/peer_process.py asks: `python job.py exact|windows`. BENCH_JARS: Kafka source and connector.
"""

import json
import os
import sys
import time
from bisect import bisect_right

os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable

import joblib
import numpy as np
import pandas as pd
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.sql.streaming.state import GroupStateTimeout

MODE = sys.argv[1]
EVENTS, WARM_UP = int(os.environ["BENCH_EVENTS"]), int(os.environ["BENCH_WARM_UP"])
LIVE = bool(os.environ.get("BENCH_LIVE"))
PREFIX, BROKER = os.environ["FRAUDSTREAM_TOPIC_PREFIX"], os.environ["FRAUDSTREAM_BROKER"]
WIDTH, THRESHOLD = int(os.environ["BENCH_FEATURES"]), float(os.environ["BENCH_THRESHOLD"])
HOUR = 3_600_000
WINDOWS = (HOUR, 24 * HOUR, 7 * 24 * HOUR, 30 * 24 * HOUR)
NAMES = [f"card_count_{n}" for n in range(4)] + [f"card_average_{n}" for n in range(4)]
host, port = os.environ["FRAUDSTREAM_CASSANDRA"].split(":")

spark = (
    SparkSession.builder.master("local[2]")
    .config("spark.jars", os.environ["BENCH_JARS"])
    .config("spark.sql.shuffle.partitions", "2")  # as many as cores
    .config("spark.ui.enabled", "false")
    .config("spark.driver.memory", "2g")
    .config("spark.sql.execution.arrow.pyspark.enabled", "true")
    .config("spark.cassandra.connection.host", host)
    .config("spark.cassandra.connection.port", port)
    .config("spark.sql.session.timeZone", "UTC")
    .getOrCreate()
)
spark.sparkContext.setLogLevel("ERROR")
model = spark.sparkContext.broadcast(joblib.load(os.environ["BENCH_MODEL"]))


def say(**said):
    """One line for the bench."""
    print(json.dumps(said), flush=True)


def of_card(key, frames, state):
    """Counts and averages over (t - w, t] of a card's history."""
    times, amounts = map(list, state.get) if state.exists else ([], [])
    times = [int(at) for at in times]  # arrays of a state come back as floats
    out = []
    for frame in frames:
        for identity, terminal, amount, at in zip(
            frame["transaction_id"], frame["terminal_id"], frame["amount"], frame["at"]
        ):
            at = int(at)
            place = bisect_right(times, at)
            times.insert(place, at)
            amounts.insert(place, amount)
            counts, averages = [], []
            for window in WINDOWS:
                first = place
                while first and times[first - 1] > at - window:
                    first -= 1
                counts.append(float(place + 1 - first))
                averages.append(sum(amounts[first : place + 1]) / (place + 1 - first))
            out.append((key[0], identity, terminal, amount, at, *counts, *averages))
    old = 0
    while times[old] <= times[-1] - WINDOWS[-1]:
        old += 1
    state.update((times[old:], amounts[old:]))
    yield pd.DataFrame(
        out, columns=["card_id", "transaction_id", "terminal_id", "amount", "at", *NAMES]
    )


def score(frames):
    """The model, for a whole batch."""
    for frame in frames:
        if len(frame):
            rows = np.zeros((len(frame), WIDTH))
            rows[:, 0] = frame["amount"]
            rows[:, 4:12] = frame[NAMES].to_numpy() if MODE == "exact" else 0.0
            yield frame.assign(score=model.value.predict_proba(rows)[:, 1])


raw = (
    spark.readStream.format("kafka")
    .option("kafka.bootstrap.servers", BROKER)
    .option("subscribe", f"{PREFIX}transactions")
    .option("startingOffsets", "earliest")
    .option("maxOffsetsPerTrigger", "25000")
    .load()
)
schema = (
    "transaction_id string, card_id string, terminal_id string, amount double, event_time timestamp"
)
events = raw.select(F.from_json(F.col("value").cast("string"), schema).alias("v")).select("v.*")
if MODE == "exact":
    events = events.withColumn("at", F.unix_millis("event_time")).drop("event_time")
    fields = "card_id string, transaction_id string, terminal_id string, amount double, at long, "
    fields += ", ".join(f"{name} double" for name in NAMES)
    found = events.groupBy("card_id").applyInPandasWithState(
        of_card,
        fields,
        "times array<long>, amounts array<double>",
        "append",
        GroupStateTimeout.NoTimeout,
    )
    found = found.mapInPandas(score, fields + ", score double")
    pairs = [part for name in NAMES for part in (F.lit(name), F.col(name))]
    rows = found.select(
        "card_id", "transaction_id", "terminal_id", "amount", "score",
        F.timestamp_millis("at").alias("event_time"), F.create_map(*pairs).alias("features"),
    )  # fmt: skip
else:
    by = events.withWatermark("event_time", "10 minutes").groupBy(
        F.window("event_time", "1 hour", "5 minutes"), "card_id"
    )
    found = by.agg(
        F.count("*").alias("n"), F.avg("amount").alias("average"), F.max("amount").alias("amount")
    )
    found = found.select(
        "card_id", F.col("window.start").alias("event_time"), "n", "average", "amount"
    )
    fields = (
        "card_id string, event_time timestamp, n long, average double, amount double, score double"
    )
    rows = found.mapInPandas(score, fields).select(
        "card_id", F.lit("window").alias("transaction_id"), "amount", "score", "event_time",
        F.create_map(F.lit("count"), F.col("n").cast("double"), F.lit("average"), F.col("average")).alias("features"),
    )  # fmt: skip
rows = (
    rows.withColumn("month", F.date_format("event_time", "yyyy-MM"))
    .withColumn("is_fraud", F.col("score") >= THRESHOLD)
    .withColumn("threshold", F.lit(THRESHOLD))
    .withColumn("scored_at", F.current_timestamp())
)
account = {"begun": 0.0, "ended": 0.0, "rows": 0, "batch_seconds": []}
latencies = []


def quantiles():
    """Of what came after the warm-up."""
    marks = np.quantile(latencies[WARM_UP:], (0.5, 0.99, 0.999)).tolist()
    return dict(zip(("p50", "p99", "p99.9"), marks))


def write(batch, _number):
    """One micro-batch: the predictions topic, then Cassandra."""
    began = time.monotonic()
    if not account["begun"]:
        account["begun"] = began
        say(mark="begin")
    if MODE == "exact":
        batch.persist()
        value = F.to_json(F.struct("*")).alias("value")
        target = {"kafka.bootstrap.servers": BROKER, "topic": f"{PREFIX}predictions"}
        batch.select(F.col("card_id").alias("key"), value).write.format("kafka").options(
            **target
        ).save()
    place = {"table": "predictions", "keyspace": os.environ["FRAUDSTREAM_KEYSPACE"]}
    batch.write.format("org.apache.spark.sql.cassandra").options(**place).mode("append").save()
    account["ended"] = time.monotonic()
    account["batch_seconds"].append(round(account["ended"] - began, 2))
    if LIVE:
        now = time.time() * 1000
        latencies.extend(
            now - row[0] for row in batch.select(F.unix_millis("event_time")).collect()
        )
    batch.unpersist()
    if LIVE and len(latencies) >= EVENTS:
        end(len(latencies), latency_ms=quantiles())


def end(events, **more):
    """Everything is written."""
    seconds = account["ended"] - account["begun"]
    say(mark="end", events=events, seconds=seconds, batch_seconds=account["batch_seconds"], **more)
    time.sleep(600)  # the bench ends us


query = rows.writeStream.outputMode("append" if MODE == "exact" else "update").foreachBatch(write)
query = query.option("checkpointLocation", "spark-checkpoint")
query = query.trigger(processingTime="0 seconds") if LIVE else query.trigger(availableNow=True)
query = query.start()
query.awaitTermination()
end(sum(progress["numInputRows"] for progress in query.recentProgress))

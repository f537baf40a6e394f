import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.serialization.AbstractDeserializationSchema;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.configuration.CheckpointingOptions;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.PipelineOptions;
import org.apache.flink.configuration.RestartStrategyOptions;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.kafka.clients.producer.ProducerRecord;

/**
 * The same work with Apache Flink: the eight windows of the feature set `basic`, the model for each event, the
 * predictions topic, Cassandra.
 *
 * <p>One JVM with a mini-cluster of two slots, one per core; state on the heap, a checkpoint every ten seconds to the
 * local disk. After a crash, state is exact; rows replace themselves, and the predictions topic has some records twice.
 * No deduplication of repeated transactions, no late, conflicting or misrouted records, no labels, no reasons, no alerts.
 *
 * <p>Speaks as app/lab/bench/peer_process.py asks.
 */
public final class FlinkJob {
    /** As many as cores. */
    private static final int PARALLELISM = 2;
    private static final long CHECKPOINT_MS = 10_000;

    private FlinkJob() {}

    public static void main(String[] arguments) {
        try {
            run();
        } catch (Throwable error) {
            Throwable cause = error;
            while (cause.getCause() != null) {
                cause = cause.getCause();
            }
            error.printStackTrace();
            System.err.println(cause);  // the last line is what the bench shows
            System.exit(1);
        }
    }

    private static void run() throws Exception {
        boolean live = System.getenv("BENCH_LIVE") != null;
        String broker = System.getenv("FRAUDSTREAM_BROKER");
        String prefix = System.getenv("FRAUDSTREAM_TOPIC_PREFIX");
        String model = System.getenv("BENCH_MODEL_JSON");
        int width = Integer.parseInt(System.getenv("BENCH_FEATURES"));
        double threshold = Double.parseDouble(System.getenv("BENCH_THRESHOLD"));
        if (model == null) {
            throw new IllegalStateException("this model is neither a logistic regression nor a random forest");
        }

        Configuration settings = new Configuration();
        settings.set(CheckpointingOptions.CHECKPOINT_STORAGE, "filesystem");
        settings.set(CheckpointingOptions.CHECKPOINTS_DIRECTORY, Path.of("flink-checkpoints").toUri().toString());
        settings.set(RestartStrategyOptions.RESTART_STRATEGY, "none");  // a failure ends the measurement
        settings.set(PipelineOptions.OBJECT_REUSE, true);
        StreamExecutionEnvironment flink = StreamExecutionEnvironment.createLocalEnvironment(PARALLELISM, settings);
        flink.enableCheckpointing(CHECKPOINT_MS);
        flink.setBufferTimeout(live ? 1 : 100);  // latency or throughput

        KafkaSource<Transaction> source = KafkaSource.<Transaction>builder()
            .setBootstrapServers(broker)
            .setTopics(prefix + "transactions")
            .setGroupId(prefix + "flink")
            .setStartingOffsets(OffsetsInitializer.earliest())
            .setValueOnlyDeserializer(new FromJson())
            .build();
        KafkaSink<Transaction> predictions = KafkaSink.<Transaction>builder()
            .setBootstrapServers(broker)
            .setDeliveryGuarantee(DeliveryGuarantee.AT_LEAST_ONCE)
            .setRecordSerializer(new ToJson(prefix + "predictions"))
            .build();

        DataStream<Transaction> scored = flink
            .fromSource(source, WatermarkStrategy.noWatermarks(), "transactions")
            .keyBy(one -> one.cardId, Types.STRING)
            .process(new CardWindows())
            .keyBy(one -> one.terminalId, Types.STRING)
            .process(new TerminalWindows(model, width, threshold));
        scored.sinkTo(predictions);
        scored.sinkTo(new CassandraSink(
            System.getenv("FRAUDSTREAM_CASSANDRA"), System.getenv("FRAUDSTREAM_KEYSPACE"), threshold));
        flink.execute("fraud");
    }

    /** Reads a transaction. */
    public static final class FromJson extends AbstractDeserializationSchema<Transaction> {
        private static final ObjectMapper JSON = new ObjectMapper();

        @Override
        public Transaction deserialize(byte[] value) throws IOException {
            return JSON.readValue(value, Transaction.class);
        }
    }

    /** Writes a prediction. */
    public static final class ToJson implements KafkaRecordSerializationSchema<Transaction> {
        private static final ObjectMapper JSON = new ObjectMapper();
        private final String topic;

        ToJson(String topic) {
            this.topic = topic;
        }

        @Override
        public ProducerRecord<byte[], byte[]> serialize(Transaction one, KafkaSinkContext context, Long timestamp) {
            try {
                byte[] key = one.cardId.getBytes(StandardCharsets.UTF_8);
                return new ProducerRecord<>(topic, key, JSON.writeValueAsBytes(one));
            } catch (JsonProcessingException error) {
                throw new IllegalStateException(error);
            }
        }
    }
}

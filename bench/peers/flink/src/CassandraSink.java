import com.datastax.oss.driver.api.core.CqlSession;
import com.datastax.oss.driver.api.core.config.DefaultDriverOption;
import com.datastax.oss.driver.api.core.config.DriverConfigLoader;
import com.datastax.oss.driver.api.core.cql.BatchStatement;
import com.datastax.oss.driver.api.core.cql.BatchType;
import com.datastax.oss.driver.api.core.cql.BoundStatement;
import com.datastax.oss.driver.api.core.cql.PreparedStatement;
import com.datastax.oss.driver.api.core.cql.Statement;
import java.io.IOException;
import java.math.BigDecimal;
import java.net.InetSocketAddress;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayDeque;
import java.util.HashMap;
import java.util.Map;
import org.apache.flink.api.connector.sink2.Sink;
import org.apache.flink.api.connector.sink2.SinkWriter;
import org.apache.flink.api.connector.sink2.WriterInitContext;

/**
 * Writes rows asynchronously, and waits for all of them at each checkpoint: at least once, and a repeated row replaces
 * itself. A row leaves at once while few requests are in flight; otherwise rows gather in a batch.
 */
public class CassandraSink implements Sink<Transaction> {
    /** A batch of Cassandra may have 50 KB. */
    private static final int ROWS_PER_BATCH = 40;
    private static final int BATCHES_IN_FLIGHT = 16;

    private final String host;
    private final int port;
    private final String keyspace;
    private final double threshold;

    CassandraSink(String address, String keyspace, double threshold) {
        address = address.split(",")[0];
        this.host = address.substring(0, address.lastIndexOf(':'));
        this.port = Integer.parseInt(address.substring(address.lastIndexOf(':') + 1));
        this.keyspace = keyspace;
        this.threshold = threshold;
    }

    @Override
    public SinkWriter<Transaction> createWriter(WriterInitContext context) {
        return new Writer();
    }

    private record Row(BoundStatement insert, long at) {}

    private final class Writer implements SinkWriter<Transaction> {
        private final CqlSession session = CqlSession.builder()
            .addContactPoint(new InetSocketAddress(host, port))
            .withKeyspace(keyspace)
            .withConfigLoader(DriverConfigLoader.programmaticBuilder()
                .withString(DefaultDriverOption.LOAD_BALANCING_POLICY_CLASS, "DcInferringLoadBalancingPolicy")
                .withDuration(DefaultDriverOption.REQUEST_TIMEOUT, Duration.ofSeconds(10))
                .withBoolean(DefaultDriverOption.REQUEST_DEFAULT_IDEMPOTENCE, true)
                .build())
            .build();
        private final PreparedStatement insert = session.prepare(
            "INSERT INTO predictions (card_id, month, event_time, transaction_id, terminal_id, amount, score, "
                + "is_fraud, threshold, features, scored_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
        private final ArrayDeque<Row> waiting = new ArrayDeque<>();
        private int inFlight;
        private Throwable failure;

        @Override
        public synchronized void write(Transaction one, Context context)
                throws IOException, InterruptedException {
            check();
            waiting.add(new Row(bound(one), one.at));
            if (inFlight < BATCHES_IN_FLIGHT) {
                send();
            }
            while (waiting.size() >= ROWS_PER_BATCH) {
                await();
            }
        }

        @Override
        public synchronized void flush(boolean endOfInput) throws IOException, InterruptedException {
            while (inFlight > 0) {  // whatever waits is sent when one is acknowledged
                await();
            }
            check();
        }

        @Override
        public void close() {
            session.close();
        }

        private void await() throws IOException, InterruptedException {
            check();
            wait();
        }

        private void check() throws IOException {
            if (failure != null) {
                throw new IOException("Cassandra does not take a row: " + failure.getMessage(), failure);
            }
        }

        private BoundStatement bound(Transaction one) {
            Instant moment = Instant.ofEpochMilli(one.at);
            Map<String, Double> features = new HashMap<>();
            for (int n = 0; n < Columns.NAMES.length; n++) {
                features.put(Columns.NAMES[n], one.features[n]);
            }
            return insert.bind(
                one.cardId, moment.toString().substring(0, 7), moment, one.transactionId, one.terminalId,
                BigDecimal.valueOf(one.amount), one.score, one.isFraud, threshold, features, Instant.now());
        }

        private void send() {
            int rows = Math.min(waiting.size(), ROWS_PER_BATCH);
            long[] times = new long[rows];
            BoundStatement[] inserts = new BoundStatement[rows];
            for (int n = 0; n < rows; n++) {
                Row row = waiting.remove();
                inserts[n] = row.insert;
                times[n] = row.at;
            }
            Statement<?> sent = rows == 1 ? inserts[0] : BatchStatement.newInstance(BatchType.UNLOGGED, inserts);
            inFlight++;
            session.executeAsync(sent).whenComplete((done, error) -> acknowledged(times, error));
        }

        private synchronized void acknowledged(long[] times, Throwable error) {
            inFlight--;
            if (error != null) {
                failure = error;
            } else {
                Marks.written(times);
                if (!waiting.isEmpty() && failure == null) {
                    send();
                }
            }
            notifyAll();
        }
    }
}

import java.util.Arrays;
import java.util.Locale;

/** What the bench wants to hear: the first event, and the last acknowledged row; all subtasks are in this JVM. */
final class Marks {
    private static final int EVENTS = Integer.parseInt(System.getenv("BENCH_EVENTS"));
    private static final int WARM_UP = Integer.parseInt(System.getenv("BENCH_WARM_UP"));
    private static final double[] LATENCIES = new double[EVENTS];
    private static volatile long begun;
    private static int rows;

    private Marks() {}

    static void begin() {
        if (begun == 0) {
            beginOnce();
        }
    }

    private static synchronized void beginOnce() {
        if (begun == 0) {
            begun = System.nanoTime();
            say("{\"mark\": \"begin\"}");
        }
    }

    /** Rows of transactions with these event times are acknowledged. */
    static synchronized void written(long[] times) {
        long now = System.currentTimeMillis();
        for (long at : times) {
            if (rows < EVENTS) {
                LATENCIES[rows++] = now - at;
            }
        }
        if (rows == EVENTS && times.length > 0) {
            end((System.nanoTime() - begun) / 1e9);
        }
    }

    private static void end(double seconds) {
        double[] ordered = Arrays.copyOfRange(LATENCIES, WARM_UP, EVENTS);
        Arrays.sort(ordered);
        say(String.format(
            Locale.ROOT,
            "{\"mark\": \"end\", \"events\": %d, \"seconds\": %.6f, "
                + "\"latency_ms\": {\"p50\": %.3f, \"p99\": %.3f, \"p99.9\": %.3f}}",
            EVENTS, seconds, quantile(ordered, 0.5), quantile(ordered, 0.99), quantile(ordered, 0.999)));
    }

    private static double quantile(double[] ordered, double q) {
        double place = q * (ordered.length - 1);
        int below = (int) place;
        int above = Math.min(below + 1, ordered.length - 1);
        return ordered[below] + (place - below) * (ordered[above] - ordered[below]);
    }

    private static void say(String line) {
        System.out.println(line);
        System.out.flush();
    }
}

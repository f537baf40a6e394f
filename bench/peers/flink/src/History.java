import java.util.Arrays;

/** The transactions of one card or terminal within the longest window, in event time order: keyed state. */
public class History {
    public long[] times = new long[8];
    public long[] minors = new long[8];
    public int size;

    /** Puts a transaction in its place, behind those of the same time; returns the place. */
    int add(long at, long minor) {
        int place = after(at);
        if (size == times.length) {
            times = Arrays.copyOf(times, 2 * size);
            minors = Arrays.copyOf(minors, 2 * size);
        }
        System.arraycopy(times, place, times, place + 1, size - place);
        System.arraycopy(minors, place, minors, place + 1, size - place);
        times[place] = at;
        minors[place] = minor;
        size++;
        return place;
    }

    /** Evicts what no window of a newer transaction contains; places change. */
    void evict() {
        int old = after(times[size - 1] - Columns.LONGEST);
        if (old > 0) {
            size -= old;
            System.arraycopy(times, old, times, 0, size);
            System.arraycopy(minors, old, minors, 0, size);
        }
    }

    /** Number of transactions at or before a moment. */
    int after(long at) {
        int low = 0;
        int high = size;
        while (low < high) {
            int middle = (low + high) >>> 1;
            if (times[middle] <= at) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        return low;
    }

    /** Sum of the amounts from one place to another, both included, minor units. */
    long total(int first, int last) {
        long sum = 0;
        for (int n = first; n <= last; n++) {
            sum += minors[n];
        }
        return sum;
    }
}

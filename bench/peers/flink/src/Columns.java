/** The feature set `basic` with the default windows, as docs/features.md defines it. */
public final class Columns {
    static final long HOUR = 3_600_000L;
    static final long[] WINDOWS = {HOUR, 24 * HOUR, 7 * 24 * HOUR, 30 * 24 * HOUR};
    static final long LONGEST = WINDOWS[WINDOWS.length - 1];
    static final String[] NAMES = {
        "amount", "is_weekend", "is_night", "seconds_since_last",
        "card_count_1h", "card_count_1d", "card_count_7d", "card_count_30d",
        "card_avg_amount_1h", "card_avg_amount_1d", "card_avg_amount_7d", "card_avg_amount_30d",
        "amount_over_card_avg_30d",
        "terminal_count_1h", "terminal_count_1d", "terminal_count_7d", "terminal_count_30d",
    };
    static final int SINCE_LAST = 3;
    static final int CARD_COUNTS = 4;
    static final int CARD_AVERAGES = 8;
    static final int OVER_AVERAGE = 12;
    static final int TERMINAL_COUNTS = 13;

    private Columns() {}
}

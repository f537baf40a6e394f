import java.time.DayOfWeek;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.util.Collector;

/** Four exact windows per card: counts and averages over (t - w, t] of the transactions that have arrived. */
public class CardWindows extends KeyedProcessFunction<String, Transaction, Transaction> {
    private transient ValueState<History> state;

    @Override
    public void open(OpenContext context) {
        state = getRuntimeContext().getState(new ValueStateDescriptor<>("card", History.class));
    }

    @Override
    public void processElement(Transaction one, Context context, Collector<Transaction> out)
            throws Exception {
        Marks.begin();
        OffsetDateTime moment = OffsetDateTime.parse(one.eventTime).withOffsetSameInstant(ZoneOffset.UTC);
        one.at = moment.toInstant().toEpochMilli();
        long minor = Math.round(one.amount * 100);
        double[] features = one.features;
        features[0] = one.amount;
        features[1] = moment.getDayOfWeek().compareTo(DayOfWeek.SATURDAY) >= 0 ? 1 : 0;
        features[2] = moment.getHour() <= 6 ? 1 : 0;

        History history = state.value();
        if (history == null) {
            history = new History();
        }
        int place = history.add(one.at, minor);
        long gap = place > 0 ? one.at - history.times[place - 1] : Columns.LONGEST;
        features[Columns.SINCE_LAST] = Math.min(gap, Columns.LONGEST) / 1000.0;
        long count = 0;
        long total = 0;
        for (int n = 0; n < Columns.WINDOWS.length; n++) {
            int first = history.after(one.at - Columns.WINDOWS[n]);
            count = place + 1 - first;
            total = history.total(first, place);
            features[Columns.CARD_COUNTS + n] = count;
            features[Columns.CARD_AVERAGES + n] = total / (count * 100.0);
        }
        features[Columns.OVER_AVERAGE] = total == 0 ? 1 : (double) (minor * count) / total;
        history.evict();
        state.update(history);
        out.collect(one);
    }
}

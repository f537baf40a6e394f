import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.util.Collector;

/** Four exact windows per terminal, then the model. */
public class TerminalWindows extends KeyedProcessFunction<String, Transaction, Transaction> {
    private final String modelFile;
    private final int width;
    private final double threshold;
    private transient ValueState<History> state;
    private transient Model model;

    TerminalWindows(String modelFile, int width, double threshold) {
        this.modelFile = modelFile;
        this.width = width;
        this.threshold = threshold;
    }

    @Override
    public void open(OpenContext context) throws Exception {
        state = getRuntimeContext().getState(new ValueStateDescriptor<>("terminal", History.class));
        model = Model.of(modelFile, width);
    }

    @Override
    public void processElement(Transaction one, Context context, Collector<Transaction> out)
            throws Exception {
        History history = state.value();
        if (history == null) {
            history = new History();
        }
        int place = history.add(one.at, 0);
        for (int n = 0; n < Columns.WINDOWS.length; n++) {
            int first = history.after(one.at - Columns.WINDOWS[n]);
            one.features[Columns.TERMINAL_COUNTS + n] = place + 1 - first;
        }
        history.evict();
        state.update(history);
        one.score = model.score(one.features);
        one.isFraud = one.score >= threshold;
        out.collect(one);
    }
}

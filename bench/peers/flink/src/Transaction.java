import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.annotation.JsonProperty;

/** A transaction on its way through the job; a POJO, so that Flink serialises it without Kryo. */
@JsonIgnoreProperties(ignoreUnknown = true)
public class Transaction {
    @JsonProperty("transaction_id") public String transactionId;
    @JsonProperty("card_id") public String cardId;
    @JsonProperty("terminal_id") public String terminalId;
    @JsonProperty("event_time") public String eventTime;
    public double amount;
    /** Event time, epoch milliseconds. */
    public long at;
    /** The feature set `basic`, in the order of {@link Columns#NAMES}. */
    public double[] features = new double[Columns.NAMES.length];
    public double score;
    @JsonProperty("is_fraud") public boolean isFraud;
}

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.File;
import java.io.IOException;
import java.util.Arrays;
import java.util.stream.StreamSupport;

/** The scikit-learn model of the bench, from the numbers that app/lab/bench/exported_model.py writes. */
abstract class Model {
    /** Columns that the model takes: what it wants beyond ours is 0, as for the other peers. */
    private final double[] row;

    Model(int width) {
        row = new double[width];
    }

    static Model of(String file, int width) throws IOException {
        JsonNode root = new ObjectMapper().readTree(new File(file));
        return root.get("kind").asText().equals("forest") ? new Forest(root, width) : new Logistic(root, width);
    }

    /** Probability of fraud. */
    double score(double[] features) {
        System.arraycopy(features, 0, row, 0, Math.min(features.length, row.length));
        return of(row);
    }

    abstract double of(double[] row);

    static double[] doubles(JsonNode numbers) {
        return StreamSupport.stream(numbers.spliterator(), false).mapToDouble(JsonNode::asDouble).toArray();
    }

    private static final class Logistic extends Model {
        private final double[] mean;
        private final double[] scale;
        private final double[] weights;
        private final double intercept;

        Logistic(JsonNode root, int width) {
            super(width);
            mean = doubles(root.get("mean"));
            scale = doubles(root.get("scale"));
            weights = doubles(root.get("weights"));
            intercept = root.get("intercept").asDouble();
        }

        @Override
        double of(double[] row) {
            double sum = intercept;
            for (int n = 0; n < row.length; n++) {
                sum += weights[n] * (row[n] - mean[n]) / scale[n];
            }
            return 1 / (1 + Math.exp(-sum));
        }
    }

    private static final class Forest extends Model {
        private final Tree[] trees;

        Forest(JsonNode root, int width) {
            super(width);
            trees = StreamSupport.stream(root.get("trees").spliterator(), false).map(Tree::new).toArray(Tree[]::new);
        }

        @Override
        double of(double[] row) {
            double sum = 0;
            for (Tree tree : trees) {
                sum += tree.value(row);
            }
            return sum / trees.length;
        }
    }

    private static final class Tree {
        private final int[] left;
        private final int[] right;
        private final int[] feature;
        private final double[] threshold;
        private final double[] value;

        Tree(JsonNode node) {
            left = ints(node.get("left"));
            right = ints(node.get("right"));
            feature = ints(node.get("feature"));
            threshold = doubles(node.get("threshold"));
            value = doubles(node.get("value"));
        }

        private static int[] ints(JsonNode numbers) {
            return Arrays.stream(doubles(numbers)).mapToInt(number -> (int) number).toArray();
        }

        /** scikit-learn compares features as 32-bit floats. */
        double value(double[] row) {
            int at = 0;
            while (left[at] >= 0) {
                at = (float) row[feature[at]] <= threshold[at] ? left[at] : right[at];
            }
            return value[at];
        }
    }
}

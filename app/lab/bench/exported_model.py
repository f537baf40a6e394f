"""The numbers of a model, for peers that have no scikit-learn: a logistic regression or a random forest."""

from typing import Any

from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler


def exported_model(model: Any) -> dict[str, Any] | None:
    """A model as JSON can carry it; None for other kinds.

    Args:
        model: a fitted classifier of two classes, 0 and 1.

    Returns:
        Of a scaled logistic regression: `kind` "logistic", `mean`, `scale`, `weights` and `intercept`; the score is
        1 / (1 + exp(-(intercept + sum of weight * (x - mean) / scale))). Of a random forest: `kind` "forest" and
        `trees`, each with `left` and `right` (children by node, -1 at leaves), `feature`, `threshold` (a row goes left
        if its feature, as a 32-bit float, is at most that) and `value`; the score is the mean of the leaves' values.
    """
    match model:
        case Pipeline(
            steps=[(_, StandardScaler() as scaler), (_, LogisticRegression() as regression)]
        ):
            return {
                "kind": "logistic",
                "mean": scaler.mean_.tolist(),
                "scale": scaler.scale_.tolist(),
                "weights": regression.coef_[0].tolist(),
                "intercept": float(regression.intercept_[0]),
            }
        case RandomForestClassifier():
            return {"kind": "forest", "trees": [_tree(one.tree_) for one in model.estimators_]}
    return None


def _tree(tree: Any) -> dict[str, list[float]]:
    classes = tree.value[:, 0, :]
    return {
        "left": tree.children_left.tolist(),
        "right": tree.children_right.tolist(),
        "feature": tree.feature.tolist(),
        "threshold": tree.threshold.tolist(),
        "value": (classes[:, 1] / classes.sum(axis=1)).tolist(),
    }

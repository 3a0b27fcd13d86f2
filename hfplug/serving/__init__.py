"""One base, many variants: what is asked of a trained model, and what the answer costs."""

"""What a run leaves behind, whichever loop it was: folder, results, TensorBoard, figures."""

"""A trained model as ONNX files and as weights for PyTorch."""

"""Export of trained models to ONNX graphs, and of the page that captions in the browser."""

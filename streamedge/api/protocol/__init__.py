"""CloudFront's REST-XML: its model, binding and execution."""

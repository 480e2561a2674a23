"""From a configuration to the objects that serve by it. Only this layer names concrete origins."""

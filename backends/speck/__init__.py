"""SynSense Speck 2e and 2f: nine asynchronous convolution cores behind an event camera."""

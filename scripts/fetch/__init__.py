"""Brings models and data sets from a hub into a store: only what is needed, resumed, verified, published whole."""

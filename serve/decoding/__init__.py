"""What may be generated and when it ends: constraints and stop conditions. It knows neither the engine nor a model."""

"""Train: settings, the task (model, teacher and loss), its state on disk, and the loop."""

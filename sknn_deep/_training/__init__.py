"""The course of a training, epoch by epoch; stacks of trainings, checkpoints, callbacks."""

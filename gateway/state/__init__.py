"""One small Protocol per fact that several gateway processes may share."""

"""What has nothing to do with quantum circuits and is needed everywhere: files, checks, progress.

Imports nothing of ours but `errors`.
"""

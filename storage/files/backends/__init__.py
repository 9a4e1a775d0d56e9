"""Where bytes are kept, at plain paths: a folder, memory, S3 and Google Cloud Storage, all under one contract."""

"""The development kit: Kafka, Triton and an object store as child processes, for the demo, the tests and the benchmarks.

Nothing here is used in production. What it starts, it also removes: processes, ports, shared memory and folders, after
success, failure, Ctrl-C, SIGTERM and even a `kill -9` of the process that started it (see `stream.devkit.guardian`).

    process   one child process and the guardian that outlives its parent just long enough to clean up
    kafka     a real single-node broker          mock_kafka  librdkafka's in-process cluster, where there is no Java
    triton    a real `tritonserver`              store, s3   a local folder as a bucket, an S3 server
    stack     all of it side by side
"""

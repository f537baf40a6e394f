"""Local servers without Docker: a real Kafka broker and a real Cassandra node from pip and Maven Central.

```text
stack       Stack: up, down, wipe, status, and start/stop of one server
servers     what each server is: its configuration, JVM flags and log
jars        the lock file and the cache folder      fetch    fills the cache, checked by sha256
java        finds a Java 17                         ports    free ports, and who holds a taken one
environment what a server gets of our environment variables
processes   finds and stops only our own processes  probe    asks a server in its own protocol
make_lock   maintainers: writes jars.lock
```
"""

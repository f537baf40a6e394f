"""Local servers without Docker: a real Kafka broker and a real Cassandra node from pip and Maven Central.

```text
stack             Stack: up, down, wipe, status, and start/stop of one server
servers           what each server is: its configuration, JVM flags and log
jar_lock          the lock file and the cache folder
jar_downloads     fills the cache, checked by sha256
make_jar_lock     maintainers: writes jars.lock
java              finds a Java 17
ports             free ports, and who holds a taken one
environment       what a server gets of our environment variables
server_processes  finds and stops only our own processes
server_probe      asks a server in its own protocol
```
"""

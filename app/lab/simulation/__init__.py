"""Parts of the simulator: who pays where, what is fraud, how records arrive, how files are written.

`app.lab.simulation.simulate` is the door; the modules here know nothing of Kafka.
"""

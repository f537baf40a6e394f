"""app/blocks overrides and leans on internals of Faust and aiokafka: this fails loudly when one of them changes.

What to do then: read the method's new source beside the module named here, decide whether our override or our
reliance still holds, run tests/stream, the integration tests and a long `make crash`, and only then put the
new hash in (`python -m tests.unit.test_faust_guard` prints the table).
"""

import importlib
import inspect
import re
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from mode.services import ServiceTask

ROOT = Path(__file__).parents[2]
PINNED = {"faust-streaming": "0.15.3"}

#: Our module -> what it overrides or leans on -> hash of that source.
WATCHED: dict[str, dict[str, str]] = {
    "app/blocks/faust/block_app.py": {
        "faust.app.base:App.on_rebalance_end": "b7ff69e1e3772f30",
        "faust.app.base:App.on_rebalance_start": "5c1e23de30674082",
        "faust.app.base:App.flow_control": "f664abbe76e25985",
        "mode.utils.queues:FlowControlEvent.resume": "4dcdc1253fd0dcb4",
        "mode.services:Service._crash": "7bc0c709a151d556",
        "mode.services:Service.crash": "14980000465df0af",
        "mode.services:Service.stop": "e17cd2b6bd01e861",
    },
    "app/blocks/faust/assignor.py": {
        "faust.app.base:App.assignor": "c24bafb8eda8b529",
        "faust.assignor.cluster_assignment:ClusterAssignment.copartitioned_assignments": "ade48f57daa33d9c",
        "faust.assignor.copartitioned_assignor:CopartitionedAssignor.__init__": "72bdba15ec1827e9",
        "faust.assignor.copartitioned_assignor:CopartitionedAssignor._assign": "5b5b51228d8eabc1",
        "faust.assignor.copartitioned_assignor:CopartitionedAssignor.get_assignment": "9e7c467c7140fd22",
        "faust.assignor.client_assignment:CopartitionedAssignment.unassign_extras": "e644e7c125b197c4",
        "faust.assignor.partition_assignor:PartitionAssignor._get_client_metadata": "a0e1ba5c0d014848",
        "faust.assignor.partition_assignor:PartitionAssignor._perform_assignment": "1e0bf2c5c8f42574",
        "faust.assignor.partition_assignor:PartitionAssignor._protocol_assignments": "e231e876d04a222d",
        "faust.assignor.partition_assignor:PartitionAssignor.metadata": "6d7f0ebcd61e8b4d",
        "faust.assignor.partition_assignor:PartitionAssignor.on_assignment": "72f34bf053d696b5",
    },
    "app/blocks/faust/output_sender.py": {
        "aiokafka.producer.message_accumulator:MessageAccumulator.add_batch": "5ed1c5b1367ad854",
        "aiokafka.producer.producer:AIOKafkaProducer.send_batch": "bf42b0f0c5c0646d",
        "aiokafka.producer.sender:SendProduceReqHandler._can_retry": "7ff5d491d977aacf",
        "aiokafka.producer.sender:SendProduceReqHandler.handle_response": "850323cc8f77abc3",
    },
    "app/blocks/faust/fetched_ranges.py": {
        "aiokafka.consumer.fetcher:FetchResult.getall": "3e717e30de5068d5",
        "aiokafka.consumer.fetcher:Fetcher._proc_fetch_request": "59bf948fff47eed5",
        "aiokafka.consumer.fetcher:Fetcher._update_fetch_positions": "d7774d8241dc6a7e",
        "aiokafka.consumer.fetcher:Fetcher.fetched_records": "be4348896b9b66af",
        "aiokafka.consumer.fetcher:PartitionRecords._unpack_records": "b803e6d46480732c",
    },
    "app/blocks/faust/kafka_connections.py": {
        "aiokafka.client:AIOKafkaClient._get_conn": "68ce5d8391719d33",
        "aiokafka.client:AIOKafkaClient.bootstrap": "198943b004e55849",
        "aiokafka.client:AIOKafkaClient.hosts": "81d9142948ead095",
        "aiokafka.client:AIOKafkaClient.send": "246b277687d7b687",
        "aiokafka.conn:AIOKafkaConnection._on_read_task_error": "b770145884887544",
        "aiokafka.conn:AIOKafkaConnection._read": "7b892995c0b81468",
        "aiokafka.conn:AIOKafkaConnection.close": "28f164aa1e4f0bbc",
        "aiokafka.conn:AIOKafkaConnection.connect": "b0f9ba7f0cf6b432",
        "aiokafka.conn:AIOKafkaConnection.connected": "e392e7f6dadb2368",
        "aiokafka.conn:AIOKafkaConnection.send": "5909ea32f4efca49",
        "aiokafka.protocol.struct:Struct.__repr__": "237eb4a68c450067",
    },
    "app/kafka/oauth_tokens.py": {
        "aiokafka.conn:OAuthAuthenticator.step": "3a013ab61098033c",
    },
    "app/blocks/faust/committed_offsets.py": {
        "aiokafka.consumer.consumer:AIOKafkaConsumer.commit": "79b057d88220e5a2",
        "aiokafka.client:AIOKafkaClient.force_metadata_update": "cb7befef21c8f3f9",
        "aiokafka.cluster:ClusterMetadata.leader_for_partition": "802f7e4f021d9682",
        "aiokafka.consumer.fetcher:Fetcher._proc_offset_requests": "96978550f836842f",
        "aiokafka.consumer.group_coordinator:GroupCoordinator.fetch_committed_offsets": "6c049c7379165952",
        "faust.transport.drivers.aiokafka:AIOKafkaConsumerThread._commit": "932852ce7a23f658",
    },
    "app/blocks/faust/fetch_parsing.py": {
        "aiokafka.consumer.fetcher:FetchResult.__init__": "126a3e45763bd404",
        "aiokafka.consumer.fetcher:FetchResult.getall": "3e717e30de5068d5",
        "aiokafka.consumer.fetcher:Fetcher._proc_fetch_request": "59bf948fff47eed5",
        "aiokafka.consumer.fetcher:Fetcher.fetched_records": "be4348896b9b66af",
        "aiokafka.consumer.fetcher:PartitionRecords._unpack_records": "b803e6d46480732c",
        "aiokafka.record.memory_records:_MemoryRecordsPy._cache_next": "7bb73a2eabca4ee3",
        "aiokafka.record.memory_records:_MemoryRecordsPy.next_batch": "f1779ecb6d0d344c",
    },
    "app/blocks/faust/pipeline.py": {
        "faust.agents.agent:Agent._execute_actor": "c750b828d2bda93e",
        "faust.streams:Stream._py_aiter": "3a48ee257a65435b",
        "faust.streams:Stream.events": "c62f4dd3a73fe7aa",
        "faust.streams:Stream.noack": "921a6f5c674d32d4",
    },
    "app/blocks/faust/unsent_batches.py": {
        "aiokafka.client:AIOKafkaClient._wait_on_metadata": "52b0a5ee78ef3aa0",
        "aiokafka.producer.message_accumulator:BatchBuilder.append": "657d76f55157d9ca",
        "aiokafka.producer.message_accumulator:BatchBuilder.closed": "16b9c254eeecca09",
        "aiokafka.producer.message_accumulator:MessageAccumulator._append_batch": "4762abfc42cbaa15",
        "aiokafka.producer.message_accumulator:MessageAccumulator._pop_batch": "41cc98a298ef2628",
        "aiokafka.producer.message_accumulator:MessageAccumulator.drain_by_nodes": "fc995afbfc5718e2",
        "aiokafka.producer.message_accumulator:MessageAccumulator.reenqueue": "f75f518a1ae27ade",
        "aiokafka.producer.sender:Sender._sender_routine": "2380dc5e333d9ebd",
    },
    "app/blocks/faust/recovery.py": {
        "faust.tables.manager:TableManager.recovery": "f0bf5de78b4c3d23",
        "faust.tables.recovery:Recovery._wait": "ec7429b70176f8c6",
        "mode.services:Service.wait_first": "feade6a31f8a6789",
    },
    "app/blocks/faust/fetch_backoff.py": {
        "aiokafka.consumer.fetcher:Fetcher._fetch_requests_routine": "2a8ec5932644c9b0",
        "aiokafka.consumer.fetcher:Fetcher._get_actions_per_node": "1dab2cf937d165d0",
    },
    "app/blocks/faust/rocksdb_options.py": {
        "faust.stores.rocksdb:RocksDBOptions.as_options": "d2a1bea17736d2eb",
        "faust.stores.rocksdb:RocksDBOptions.open": "ff87e92d69e2f487",
    },
    "app/blocks/faust/block_table.py": {
        "faust.stores.rocksdb:Store._db_for_partition": "cb7e67d5f9efc4bc",
        "faust.stores.rocksdb:Store.on_rebalance": "38357aed5b7fc777",
        "faust.stores.rocksdb:Store.persisted_offset": "6f2e502fb86043a1",
        "faust.stores.rocksdb:Store.revoke_partitions": "3f85447a24fc34ff",
        "faust.tables.base:Collection.__init__": "95568fc09c76d006",
        "faust.tables.base:Collection._changelog_topic_name": "f341fe97037b4ac8",
        "faust.tables.base:Collection._new_changelog_topic": "77bea64b59f79809",
        "faust.tables.base:Collection._new_store": "914a2bda605d38f5",
        "faust.tables.base:Collection.apply_changelog_batch": "b980a78d3ae9b1e8",
        "faust.tables.base:Collection.on_rebalance": "0812ad692171a8fd",
        "faust.tables.base:Collection.on_recovery_completed": "b1526fb39ea0e77e",
        "faust.tables.recovery:Recovery._build_offsets": "27eec86be06cb51f",
        "faust.tables.recovery:Recovery._restart_recovery": "6bd8a8558a2dffe4",
        "faust.tables.recovery:Recovery._seek_offsets": "19598ca63d94d250",
        "faust.tables.recovery:Recovery._slurp_changelogs": "7825c7e50f766d5a",
        "faust.tables.recovery:Recovery.on_rebalance": "aa4d997a1795ceae",
        "faust.tables.recovery:Recovery.on_recovery_completed": "6ef567acf072e46d",
        "faust.tables.table:Table._del_key": "cddd357578c11f16",
        "faust.tables.table:Table._set_key": "40f6f41bc5a8110e",
        "mode.utils.collections:ManagedUserDict.__delitem__": "c0ce7ef82dbd1255",
        "mode.utils.collections:ManagedUserDict.__setitem__": "f3bdf602abc08dd1",
    },
    "app/blocks/faust/block_topic.py": {
        "faust.topics:Topic._compile_decode": "6474178f8c211c05",
    },
    "app/blocks/faust/block_consumer.py": {
        "aiokafka.consumer.subscription_state:TopicPartitionState.consumed_to": "c7b8f0f99ce9185e",
        "faust.app.base:App._consumer_wait_empty": "6bc313c48c064b16",
        "faust.app.base:App._on_partitions_assigned": "de932b7927db85b3",
        "faust.app.base:App._on_partitions_revoked": "d5c895bbe57dc73a",
        "faust.tables.recovery:Recovery._resume_streams": "d986a6710c1aca98",
        "faust.transport.conductor:Conductor._compile_message_handler": "9fbc0538097aa4ec",
        "faust.transport.conductor:ConductorCompiler.build": "837cf521368c1ee4",
        "faust.transport.consumer:Consumer._add_gap": "4df2573ded7c1c2c",
        "faust.transport.consumer:Consumer._commit_offsets": "1a69799041188441",
        "faust.transport.consumer:Consumer._commit_tps": "a20e230b05ae8b15",
        "faust.transport.consumer:Consumer._drain_messages": "44a2500309e83c63",
        "faust.transport.consumer:Consumer._filter_committable_offsets": "dc5e9baf5d994485",
        "faust.transport.consumer:Consumer._get_active_partitions": "b24897f3c7afdb5d",
        "faust.transport.consumer:Consumer._new_offset": "1d2c7ea89a7ad4f1",
        "faust.transport.consumer:Consumer._wait_next_records": "6218e1969a636b3f",
        "faust.transport.consumer:Consumer.ack": "5fcf41cf45153475",
        "faust.transport.consumer:Consumer.getmany": "4b168d84882a70d6",
        "faust.transport.consumer:Consumer.on_buffer_drop": "4b57e8a418d5ad9c",
        "faust.transport.consumer:Consumer.on_buffer_full": "c8961679e0bcdce5",
        "faust.transport.consumer:Consumer.on_partitions_assigned": "29ce96596f05a18c",
        "faust.transport.consumer:Consumer.on_partitions_revoked": "d04b7ae72c6fc206",
        "faust.transport.consumer:Consumer.pause_partitions": "27a1c94bdacd54de",
        "faust.transport.consumer:Consumer.perform_seek": "0e8c130ff4b0afd8",
        "faust.transport.consumer:Consumer.resume_partitions": "afe6b7c02a41d63c",
        "faust.transport.consumer:Consumer.seek": "b86a9fe05f956b30",
        "faust.transport.consumer:Consumer.wait_empty": "e4662fe24f094819",
        "faust.transport.consumer:ThreadDelegateConsumer._new_consumer_thread": "79e9c029a91a2cb2",
        "faust.transport.consumer:ThreadDelegateConsumer._seek": "4f95c631420410a5",
        "faust.transport.drivers.aiokafka:AIOKafkaConsumerThread.getmany": "26fc5fc9f3b667e1",
        "faust.transport.drivers.aiokafka:AIOKafkaConsumerThread.position": "20a2c434bb8ed180",
        "faust.transport.drivers.aiokafka:AIOKafkaConsumerThread.seek_to_committed": "775ab0adc4b052ab",
        "faust.transport.drivers.aiokafka:AIOKafkaConsumerThread.seek_wait": "12e8d34e554e9024",
        "faust.transport.drivers.aiokafka:Consumer._new_consumer_thread": "0870ec53dea75083",
        "faust.transport.drivers.aiokafka:ConsumerRebalanceListener.on_partitions_assigned": "1c1f8406ad3698a6",
        "faust.transport.drivers.aiokafka:ConsumerRebalanceListener.on_partitions_revoked": "348c3aec879faf80",
    },
    "app/blocks/faust/fetch_thread.py": {
        "aiokafka.consumer.subscription_state:SubscriptionState.assigned_partitions": "92937855f4e1a6e6",
        "faust.transport.drivers.aiokafka:AIOKafkaConsumerThread._create_worker_consumer": "c2701bfc3e6f6cad",
        "faust.transport.drivers.aiokafka:AIOKafkaConsumerThread._fetch_records": "39a2c6c79fc1455a",
        "faust.transport.drivers.aiokafka:AIOKafkaConsumerThread.assignment": "61f105132ae619f6",
        "faust.transport.drivers.aiokafka:AIOKafkaConsumerThread.on_start": "38b4e8bd1e10723a",
    },
    "app/blocks/faust/transport.py": {
        "faust.transport.drivers.aiokafka:Producer._new_producer": "e72355c3430ed02f",
        "faust.transport.drivers.aiokafka:Producer._settings_extra": "a4c7bc41b6382223",
    },
}
#: The same, flat: source -> (hash, our module).
KNOWN = {path: (known, ours) for ours, table in WATCHED.items() for path, known in table.items()}


def resolve(path: str) -> Any:
    """The function at `module:Class.method`."""
    module, _, name = path.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    if isinstance(found, ServiceTask):
        found = found.fun
    if isinstance(found, property):
        found = found.fget
    found = getattr(found, "_cached_property__get", found)  # mode's
    return inspect.unwrap(found)


def fingerprint(path: str) -> str:
    """Hash of a function's source."""
    return sha256(inspect.getsource(resolve(path)).encode()).hexdigest()[:16]


@pytest.mark.parametrize("path", KNOWN)
def test_source_is_the_one_that_we_know(path: str) -> None:
    known, ours = KNOWN[path]
    assert fingerprint(path) == known, (
        f"{path} is not what {ours} was written against: read its new source beside {ours}, "
        "then follow the docstring of this test"
    )


@pytest.mark.parametrize(("package", "wanted"), PINNED.items())
def test_pinned_version_is_installed_and_required(package: str, wanted: str) -> None:
    assert version(package) == wanted, f"app/blocks is written against {package} {wanted}"
    required = (ROOT / "setup.cfg").read_text()
    assert re.search(rf"^\s*{package}=={re.escape(wanted)}$", required, re.MULTILINE)


def test_every_overridden_method_is_watched() -> None:
    """A method that a class of app/blocks overrides has its original in the table."""
    from app.blocks.faust import (
        assignor,
        block_consumer,
        block_topic,
        fetch_thread,
        recovery,
        rocksdb_options,
        transport,
    )
    from app.blocks.faust import block_app as app_module
    from app.blocks.faust import block_table as table

    ours = [
        block_consumer.BlockConsumer,
        fetch_thread.BlockConsumerThread,
        transport.BlockProducer,
        recovery.BlockRecovery,
        rocksdb_options.StoreOptions,
        table.BlockTable,
        block_topic.BlockTopic,
        app_module.BlockApp,
        assignor.GroupAssignor,
        assignor.PlacingAssignor,
        app_module.ClearingFlowControl,
    ]
    watched = {resolve(path) for path in KNOWN}
    missing = []
    for kind in ours:
        for name, method in vars(kind).items():
            if not inspect.isfunction(method) or name == "__init__":
                continue
            original = next(
                (vars(base)[name] for base in kind.__mro__[1:] if name in vars(base)), None
            )
            if original is None or not inspect.isfunction(inspect.unwrap(original)):
                continue
            if inspect.unwrap(original) not in watched:
                missing.append(f"{original.__module__}:{original.__qualname__} ({kind.__module__})")
    assert not missing


if __name__ == "__main__":
    for our_module, sources in WATCHED.items():
        print(f'    "{our_module}": {{')
        for watched_path in sources:
            print(f'        "{watched_path}": "{fingerprint(watched_path)}",')
        print("    },")

"""Why a record is refused: every reason code, once, with what it means.

The codes are in the `reason` header of dead-letter records and in people's alerts, so one is never renamed or reused.
"""

#: Code -> what is wrong with the record. Printed in docs/dead-letters.md, which a test compares.
REASONS = {
    "empty_value": "the record has no value, or an empty one",
    "too_large": "the value is larger than `FRAUDSTREAM_MAX_MESSAGE_BYTES`, or would be after its fields are renamed",
    "invalid_utf8": "the value is not UTF-8",
    "invalid_json": "the value is not JSON: cut off, `NaN`, a byte-order mark, two objects, a number out of range",
    "framed_record": "the value is in Confluent's wire format, and `FRAUDSTREAM_INPUT_FORMAT` is json",
    "undecodable": "the value is in Confluent's wire format and its data does not match its schema, "
    "or has a value out of range, such as a Protobuf timestamp in the year 60000",
    "unknown_schema": "the schema registry has no schema with the id that the value names",
    "unsupported_schema": "the schema's type differs from `FRAUDSTREAM_INPUT_FORMAT`, or the schema cannot be used",
    "debezium_envelope": "the record is a Debezium change event, and `FRAUDSTREAM_INPUT_ENVELOPE` is none",
    "not_an_insert": "the Debezium change event is an update or delete, so it is not a new transaction",
    "not_an_object": "the value is JSON, but a number, a string, an array or null, or an envelope without a row in it",
    "too_deep": "objects and arrays are nested more than 100 deep",
    "too_many_values": "there are more than 10,000 fields and array items in total",
    "repeated_key": "a key occurs twice in one object, so the intended value is unclear",
    "missing_key": "the Kafka key is empty",
    "key_mismatch": "the Kafka key is not the `card_id` as UTF-8",
    "moved": "the record is misrouted (not in the partition of its key) and is not forwarded, because of "
    "`FRAUDSTREAM_MOVED=dead` or headers over 16 KiB",
    "unknown_schema_version": "`schema_version` is unknown to this release and its settings",
    "missing_card_id": "`card_id` is missing or null",
    "invalid_card_id": "`card_id` is neither text of 1 to 256 bytes without null characters nor a whole number",
    "not_a_pseudonym": "`card_id` is not a pseudonym, and `FRAUDSTREAM_CARD_IDS` is pseudonyms",
    "missing_transaction_id": "`transaction_id` is missing or null",
    "invalid_transaction_id": "`transaction_id` is neither text of 1 to 256 bytes without null characters "
    "nor a whole number",
    "invalid_terminal_id": "`terminal_id` is present, but neither text of 1 to 256 bytes without null characters "
    "nor a whole number",
    "missing_amount": "`amount` is missing or null",
    "invalid_amount": "`amount` is neither a number nor a plain decimal string",
    "amount_precision": "`amount` has more decimals than the currency; amounts are never rounded",
    "negative_amount": "`amount` is below zero, and refunds are not stored (`FRAUDSTREAM_REFUNDS=dead`)",
    "amount_too_large": "`amount` is over 100,000,000,000 minor units",
    "unknown_currency": "`currency` is not an ISO 4217 code",
    "foreign_currency": "`currency` is not the deployment's, and `converted_amount` is missing",
    "missing_event_time": "`event_time` is missing or null",
    "invalid_event_time": "`event_time` is neither ISO 8601 nor a number, or is after the year 9999",
    "no_time_zone": "`event_time` is ISO 8601 without an offset "
    "(a zone's name alone is ambiguous when clocks change)",
    "epoch_in_seconds": "`event_time` is a whole number so small that it must be in seconds, not milliseconds: "
    "see `FRAUDSTREAM_EVENT_TIME_UNIT`",
    "event_time_too_old": "`event_time` is before 1973",
    "invalid_field": "a field that the deployment declares (`FRAUDSTREAM_CATALOGUE_FILE`) has a value of "
    "a different type",
    "in_the_future": "`event_time` is later than the broker's timestamp by more than `FRAUDSTREAM_MAX_FUTURE_SKEW`",
}

#: For what cannot even be read as a record (app/blocks/faust/fetch_parsing.py). The first three and
#: `damaged_batch` apply to whole batches: one dead-letter record, at the batch's last offset, whose value is the batch.
UNREADABLE_REASONS = {
    "unreadable_batch": "the records of a batch cannot be read: their compression is damaged or cut off, or their "
    "lengths contradict each other",
    "batch_too_large": "the records of a compressed batch take more than 64 times `FRAUDSTREAM_MAX_MESSAGE_BYTES`",
    "unknown_codec": "the batch is compressed with a codec that this release does not support",
    "unreadable_record": "one record of a batch cannot be read; the value is its own bytes",
    "damaged_batch": "the batch does not match its checksum, although it was fetched several times",
    "skipped": "an operator skipped these offsets with `fraudstream deadletters skip`; the value is empty",
}

#: Codes that depend on settings or on the release: a record refused with one of them may be valid now.
BY_RULES = frozenset(
    {
        "too_large",
        "too_many_values",
        "batch_too_large",
        "unknown_codec",
        "invalid_json",
        "framed_record",
        "undecodable",
        "unknown_schema",
        "unsupported_schema",
        "debezium_envelope",
        "not_an_insert",
        "not_an_object",
        "moved",
        "unknown_schema_version",
        "amount_precision",
        "negative_amount",
        "unknown_currency",
        "foreign_currency",
        "missing_card_id",
        "invalid_card_id",
        "not_a_pseudonym",
        "missing_transaction_id",
        "invalid_transaction_id",
        "invalid_terminal_id",
        "missing_amount",
        "missing_event_time",
        "invalid_event_time",
        "epoch_in_seconds",
        "in_the_future",
    }
)

#: Codes that only labels have.
LABEL_REASONS = {
    "missing_is_fraud": "`is_fraud` is missing or null",
    "invalid_is_fraud": "`is_fraud` is not one of the accepted words (see docs/inputs.md, Labels)",
    "missing_labelled_at": "`labelled_at` is missing or null",
    "invalid_labelled_at": "`labelled_at` is neither ISO 8601 nor a number, or is after the year 9999",
    "labelled_at_too_old": "`labelled_at` is before 1973",
    "unknown_transaction": "no such transaction was known within `FRAUDSTREAM_LABEL_WAIT`, or too many labels waited "
    "in its terminal's state",
    "too_many_waiting": "more than `FRAUDSTREAM_MAX_PARKED_LABELS` labels of one partition waited for unknown "
    "transactions, and this was the oldest",
    "invalid_copy": "the record claims to be a copy of a parked label (header `origin`), but fraudstream did not "
    "write it",
    "ambiguous_transaction": "several transactions have this `transaction_id`: the label must contain `card_id`, "
    "and `event_time`, too, if they are all of one card",
}

#: For changes on `control`.
CHANGE_REASONS = {
    "invalid_change": "the record is not a change that `fraudstream models`, `rules` or `lists` sends",
}

#: For a range of offsets, where there was no record to read.
LOST = "lost_to_retention"
LOG_REASONS = {
    LOST: "these offsets were deleted from the topic before they were read; the header `until` is the offset after "
    "the last one",
}

"""Encodings of records on `transactions`: from bytes to fields and a JSON object (docs/adr/0015-input-formats.md).

```text
value, headers ─► framing ─► avro | protobuf | json-schema ─► envelope ─► fields, JSON object ─► app/wire/input_records
                     │
              schemas by id, from a registry: here already, or waited for
```
"""

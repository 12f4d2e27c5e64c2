from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EventType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UNSTATED: _ClassVar[EventType]
    INSERT: _ClassVar[EventType]
    UPDATE: _ClassVar[EventType]
    DELETE: _ClassVar[EventType]
    CREATE: _ClassVar[EventType]
    ALTER: _ClassVar[EventType]
    ERASE: _ClassVar[EventType]
    QUERY: _ClassVar[EventType]
    TRUNCATE: _ClassVar[EventType]
    RENAME: _ClassVar[EventType]
    CINDEX: _ClassVar[EventType]
    DINDEX: _ClassVar[EventType]
    GTID: _ClassVar[EventType]
    XACOMMIT: _ClassVar[EventType]
    XAROLLBACK: _ClassVar[EventType]
    MHEARTBEAT: _ClassVar[EventType]
UNSTATED: EventType
INSERT: EventType
UPDATE: EventType
DELETE: EventType
CREATE: EventType
ALTER: EventType
ERASE: EventType
QUERY: EventType
TRUNCATE: EventType
RENAME: EventType
CINDEX: EventType
DINDEX: EventType
GTID: EventType
XACOMMIT: EventType
XAROLLBACK: EventType
MHEARTBEAT: EventType

class Packet(_message.Message):
    __slots__ = ("type", "compression", "body")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    COMPRESSION_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    type: int
    compression: int
    body: bytes
    def __init__(self, type: _Optional[int] = ..., compression: _Optional[int] = ..., body: _Optional[bytes] = ...) -> None: ...

class Messages(_message.Message):
    __slots__ = ("messages",)
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, messages: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Entry(_message.Message):
    __slots__ = ("header", "entry_type", "store_value")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    ENTRY_TYPE_FIELD_NUMBER: _ClassVar[int]
    STORE_VALUE_FIELD_NUMBER: _ClassVar[int]
    header: Header
    entry_type: int
    store_value: bytes
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., entry_type: _Optional[int] = ..., store_value: _Optional[bytes] = ...) -> None: ...

class Header(_message.Message):
    __slots__ = ("execute_time", "schema_name", "table_name")
    EXECUTE_TIME_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_NAME_FIELD_NUMBER: _ClassVar[int]
    TABLE_NAME_FIELD_NUMBER: _ClassVar[int]
    execute_time: int
    schema_name: str
    table_name: str
    def __init__(self, execute_time: _Optional[int] = ..., schema_name: _Optional[str] = ..., table_name: _Optional[str] = ...) -> None: ...

class RowChange(_message.Message):
    __slots__ = ("event_type", "is_ddl", "sql", "rows", "ddl_schema_name")
    EVENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    IS_DDL_FIELD_NUMBER: _ClassVar[int]
    SQL_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    DDL_SCHEMA_NAME_FIELD_NUMBER: _ClassVar[int]
    event_type: EventType
    is_ddl: bool
    sql: str
    rows: _containers.RepeatedCompositeFieldContainer[RowData]
    ddl_schema_name: str
    def __init__(self, event_type: _Optional[_Union[EventType, str]] = ..., is_ddl: _Optional[bool] = ..., sql: _Optional[str] = ..., rows: _Optional[_Iterable[_Union[RowData, _Mapping]]] = ..., ddl_schema_name: _Optional[str] = ...) -> None: ...

class RowData(_message.Message):
    __slots__ = ("before", "after")
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    before: _containers.RepeatedCompositeFieldContainer[Column]
    after: _containers.RepeatedCompositeFieldContainer[Column]
    def __init__(self, before: _Optional[_Iterable[_Union[Column, _Mapping]]] = ..., after: _Optional[_Iterable[_Union[Column, _Mapping]]] = ...) -> None: ...

class Column(_message.Message):
    __slots__ = ("name", "is_key", "is_null", "value", "mysql_type")
    NAME_FIELD_NUMBER: _ClassVar[int]
    IS_KEY_FIELD_NUMBER: _ClassVar[int]
    IS_NULL_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    MYSQL_TYPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    is_key: bool
    is_null: bool
    value: str
    mysql_type: str
    def __init__(self, name: _Optional[str] = ..., is_key: _Optional[bool] = ..., is_null: _Optional[bool] = ..., value: _Optional[str] = ..., mysql_type: _Optional[str] = ...) -> None: ...

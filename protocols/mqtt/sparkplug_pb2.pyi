# Written by hand: what this room and its tests use of the generated module, typed.
from typing import Literal

from google.protobuf.internal.containers import RepeatedCompositeFieldContainer, RepeatedScalarFieldContainer
from google.protobuf.message import Message

class Payload(Message):
    class PropertyValue(Message):
        type: int
        is_null: bool
        int_value: int
        long_value: int
        def WhichOneof(self, oneof_group: Literal["value"]) -> str | None: ...  # noqa: N802  # protobuf's own name

    class PropertySet(Message):
        @property
        def keys(self) -> RepeatedScalarFieldContainer[str]: ...
        @property
        def values(self) -> RepeatedCompositeFieldContainer[Payload.PropertyValue]: ...

    class DataSet(Message):
        class Value(Message):
            int_value: int
            long_value: int
            float_value: float
            double_value: float
            boolean_value: bool
            string_value: str

        class Row(Message):
            @property
            def elements(self) -> RepeatedCompositeFieldContainer[Payload.DataSet.Value]: ...

        num_of_columns: int
        @property
        def columns(self) -> RepeatedScalarFieldContainer[str]: ...
        @property
        def types(self) -> RepeatedScalarFieldContainer[int]: ...
        @property
        def rows(self) -> RepeatedCompositeFieldContainer[Payload.DataSet.Row]: ...

    class Template(Message):
        template_ref: str
        is_definition: bool
        @property
        def metrics(self) -> RepeatedCompositeFieldContainer[Payload.Metric]: ...

    class Metric(Message):
        name: str
        alias: int
        timestamp: int
        datatype: int
        is_historical: bool
        is_transient: bool
        is_null: bool
        int_value: int
        long_value: int
        float_value: float
        double_value: float
        boolean_value: bool
        string_value: str
        bytes_value: bytes
        @property
        def dataset_value(self) -> Payload.DataSet: ...
        @property
        def template_value(self) -> Payload.Template: ...
        @property
        def properties(self) -> Payload.PropertySet: ...
        def WhichOneof(self, oneof_group: Literal["value"]) -> str | None: ...  # noqa: N802  # protobuf's own name

    timestamp: int
    seq: int
    uuid: str
    body: bytes
    @property
    def metrics(self) -> RepeatedCompositeFieldContainer[Payload.Metric]: ...

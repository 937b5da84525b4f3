# Written by hand: what simulators/mqtt_plant.py and the tests use of the generated module, typed.
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
from google.protobuf.message import Message

class Payload(Message):
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

    timestamp: int
    seq: int
    uuid: str
    body: bytes
    @property
    def metrics(self) -> RepeatedCompositeFieldContainer[Payload.Metric]: ...

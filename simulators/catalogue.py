"""The machines a factory of this kind has: names, equipment classes, models and what each of them measures.

Makers and models are invented. Equipment classes are keys of the finest level of Appendix B, table B.1, of the
Jiangxi 2024 programme (工业设备分类); industry codes are GB/T 4754-2017.
"""

from __future__ import annotations

from dataclasses import dataclass

from simulators.signals import Phase, Rhythm, Signal

DEFAULT_RHYTHM = Rhythm()
ANY_WORK = (Phase.SETUP, Phase.RUN, Phase.BURST)


@dataclass(frozen=True, slots=True)
class Maker:
    """An invented maker: the name in the asset ledger, and the ASCII brand that a Modbus identity can carry."""

    name: str
    brand: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of machine. `home` is the protocol on which a factory usually meets it."""

    prefix: str
    name: str
    class_key: str
    maker: Maker
    models: tuple[str, ...]
    home: str
    signals: tuple[Signal, ...]
    energy: bool = True
    industry: str = "3484"
    rhythm: Rhythm = DEFAULT_RHYTHM


def analog(key: str, unit: str, low: float, high: float, step: float, noise: float = 3.0, lag_s: float = 2.0) -> Signal:
    """Return a sensor that follows the machine's effort, with noise of `noise` steps: it always moves."""
    return Signal(key=key, shape="analog", role="parameter", unit=unit, low=low, high=high, step=step,
                  noise_steps=noise, lag_s=lag_s)


def drift(key: str, unit: str, low: float, high: float, step: float, lag_s: float = 180.0) -> Signal:
    """Return a slow quantity (temperature, level) on a coarse sensor: it may stand still for minutes."""
    return Signal(key=key, shape="analog", role="parameter", unit=unit, low=low, high=high, step=step,
                  noise_steps=0.15, lag_s=lag_s)


def gated(key: str, unit: str, low: float, high: float, step: float) -> Signal:
    """Return a quantity that is exactly zero unless the machine works: spindle speed, feed, welding current."""
    return Signal(key=key, shape="gated", role="parameter", unit=unit, low=low, high=high, step=step, noise_steps=2.0)


def counter(key: str, limit: int) -> Signal:
    """Return a count of working cycles that starts again from zero at `limit`."""
    return Signal(key=key, shape="counter", role="parameter", high=limit)


def total(key: str, unit: str, limit: float, step: float, per_s: float) -> Signal:
    """Return a totaliser (energy, flow): grows by `per_s` steps a second at full effort."""
    return Signal(key=key, shape="total", role="parameter", unit=unit, high=limit, step=step, noise_steps=per_s)


def switch(key: str, *phases: Phase) -> Signal:
    """Return a contact that is closed in these phases."""
    return Signal(key=key, shape="switch", role="switch", phases=phases)


def setpoint(key: str, unit: str, low: float, high: float, step: float) -> Signal:
    """Return a parameter that an operator sets; it may not change for hours."""
    return Signal(key=key, shape="setpoint", role="parameter", unit=unit, low=low, high=high, step=step)


def constant(key: str, unit: str, low: float, high: float, step: float) -> Signal:
    """Return a fixed figure of the nameplate kind."""
    return Signal(key=key, shape="constant", role="constant", unit=unit, low=low, high=high, step=step)


def program(*texts: str) -> Signal:
    """Return the name of the part program that is loaded."""
    return Signal(key="program", shape="program", role="parameter", texts=texts)


HEARTBEAT = Signal(key="heartbeat", shape="heartbeat", role="heartbeat", high=10_000)
STATE = Signal(key="state", shape="state", role="parameter", high=4)
RUNNING = switch("running", Phase.RUN, Phase.BURST)
DOOR = switch("door_open", Phase.SETUP)
POWER_ON = switch("power_on", Phase.IDLE, *ANY_WORK)

HUARUI = Maker("华锐机床", "HUARUI")
JIANGZHU = Maker("江铸重工", "JIANGZHU")
RUIKE = Maker("瑞科机器人", "RUIKE")
CHANGFENG = Maker("长风压缩机", "CHANGFENG")
GANLIU = Maker("赣流泵业", "GANLIU")
BODIAN = Maker("博电电气", "BODIAN")
HENGSONG = Maker("恒送物流装备", "HENGSONG")
QINGLAN = Maker("清岚环保", "QINGLAN")
JINGCE = Maker("精测仪表", "JINGCE")

_SPINDLE = (gated("spindle_speed", "rpm", 400, 6000, 1), analog("spindle_load", "%", 4, 85, 0.1),
            analog("spindle_temp", "°C", 24, 62, 0.1, noise=2.0, lag_s=90))

KINDS: tuple[Kind, ...] = (
    Kind(prefix="lathe", name="数控车床", class_key="metal_cutting_machine_tool", maker=HUARUI, home="opc_ua",
         models=("HR-CK6150", "HR-CK6180"), industry="3484",
         signals=(*_SPINDLE, gated("feed_rate", "mm/min", 40, 1200, 1), counter("parts", 100_000), STATE, RUNNING,
                  DOOR, program("O1001", "O1002", "O2210"), constant("max_speed", "rpm", 4000, 6000, 500))),
    Kind(prefix="mill", name="立式加工中心", class_key="metal_cutting_machine_tool", maker=HUARUI, home="opc_ua",
         models=("HR-VMC850", "HR-VMC1160"),
         signals=(*_SPINDLE, gated("feed_rate", "mm/min", 60, 4000, 1), analog("coolant_pressure", "bar", 1, 20, 0.01),
                  counter("parts", 100_000), STATE, RUNNING, DOOR, program("P-17", "P-18", "P-44", "P-90"))),
    Kind(prefix="press", name="伺服压力机", class_key="forging_pressing_machinery", maker=JIANGZHU, home="opc_ua",
         models=("JZ-SP200", "JZ-SP400"), rhythm=Rhythm(cycle_s=3.0, run_s=45),
         signals=(gated("force", "kN", 200, 2000, 1), analog("motor_current", "A", 6, 120, 0.1),
                  drift("oil_temp", "°C", 32, 58, 0.1), counter("strokes", 1_000_000), STATE, RUNNING,
                  switch("guard_closed", Phase.IDLE, Phase.RUN, Phase.BURST),
                  setpoint("die_height", "mm", 280, 420, 0.5), constant("rated_force", "kN", 2000, 4000, 1000))),
    Kind(prefix="weld", name="焊接机器人", class_key="welding_robot", maker=RUIKE, home="opc_ua",
         models=("RK-W6", "RK-W12"), industry="3311",
         signals=(gated("weld_current", "A", 80, 260, 1), gated("wire_feed", "m/min", 2, 14, 0.1),
                  analog("controller_temp", "°C", 28, 47, 0.1, lag_s=60), analog("joint_1", "deg", 10, 90, 0.01),
                  counter("welds", 1_000_000), STATE, RUNNING, switch("arc_on", Phase.BURST), program("J-07", "J-11"))),
    Kind(prefix="asm", name="装配机器人", class_key="assembly_robot", maker=RUIKE, home="opc_ua",
         models=("RK-A4",), rhythm=Rhythm(cycle_s=4.0),
         signals=(analog("joint_1", "deg", 5, 120, 0.01), analog("joint_2", "deg", 8, 75, 0.01),
                  analog("motor_torque", "%", 3, 88, 0.1), counter("picks", 1_000_000), STATE, RUNNING,
                  switch("gripper_closed", Phase.BURST), HEARTBEAT)),
    Kind(prefix="cast", name="压铸机", class_key="foundry_machinery", maker=JIANGZHU, home="opc_ua",
         models=("JZ-DC800", "JZ-DC1250"), industry="3392", rhythm=Rhythm(cycle_s=14.0, run_s=80),
         signals=(analog("melt_temp", "°C", 640, 682, 0.1, lag_s=60), gated("injection_pressure", "bar", 120, 900, 1),
                  drift("die_temp", "°C", 150, 230, 0.5), analog("vacuum", "mbar", 45, 90, 0.1),
                  counter("shots", 500_000), STATE, RUNNING, setpoint("holding_time", "s", 4, 12, 0.1))),
    Kind(prefix="comp", name="螺杆空压机", class_key="gas_compressor", maker=CHANGFENG, home="modbus_tcp",
         models=("CF-37A", "CF-55A", "CF-75V"), rhythm=Rhythm(run_s=120, idle_s=15),
         signals=(analog("discharge_pressure", "bar", 6.2, 7.9, 0.01), analog("discharge_temp", "°C", 62, 92, 0.1,
                  lag_s=60), analog("motor_current", "A", 18, 104, 0.1), total("run_hours", "h", 60_000, 0.01, 0.028),
                  counter("starts", 60_000), STATE, RUNNING, switch("loaded", Phase.BURST, Phase.RUN), POWER_ON,
                  setpoint("pressure_set", "bar", 6.8, 7.6, 0.1), constant("rated_power", "kW", 37, 75, 1))),
    Kind(prefix="pump", name="循环水泵", class_key="pump", maker=GANLIU, home="modbus_tcp",
         models=("GL-ISG80", "GL-ISG100"), rhythm=Rhythm(run_s=150, idle_s=20),
         signals=(analog("flow", "m3/h", 5, 92, 0.1), analog("pressure", "bar", 1.2, 5.8, 0.01),
                  analog("vibration", "mm/s", 0.6, 4.2, 0.01), drift("bearing_temp", "°C", 30, 66, 0.5),
                  total("volume", "m3", 900_000, 0.1, 0.25), STATE, RUNNING, switch("valve_open", *ANY_WORK),
                  constant("rated_flow", "m3/h", 80, 120, 10))),
    Kind(prefix="fan", name="离心风机", class_key="fan", maker=GANLIU, home="modbus_tcp",
         models=("GL-472", "GL-919"), rhythm=Rhythm(run_s=180, idle_s=20),
         signals=(gated("speed", "rpm", 300, 1450, 1), analog("motor_current", "A", 4, 62, 0.1),
                  analog("vibration", "mm/s", 0.5, 5.0, 0.01), RUNNING, POWER_ON,
                  setpoint("speed_set", "rpm", 900, 1400, 10))),
    Kind(prefix="boiler", name="燃气锅炉", class_key="boiler", maker=CHANGFENG, home="modbus_tcp",
         models=("CF-WNS4",), industry="4430", rhythm=Rhythm(run_s=200, idle_s=30),
         signals=(analog("steam_pressure", "MPa", 0.35, 0.92, 0.001),
                  analog("steam_temp", "°C", 142, 178, 0.1, lag_s=60), drift("water_level", "mm", -40, 40, 1.0),
                  analog("gas_flow", "m3/h", 18, 290, 0.1), total("gas_volume", "m3", 4_000_000, 0.1, 0.8), STATE,
                  switch("burner_on", Phase.RUN, Phase.BURST), switch("feed_pump_on", Phase.BURST),
                  constant("rated_steam", "t/h", 4, 6, 1))),
    Kind(prefix="trafo", name="干式变压器", class_key="power_transformation_equipment", maker=BODIAN, home="modbus_tcp",
         models=("BD-SCB13-1000", "BD-SCB13-1600"), rhythm=Rhythm(run_s=300, idle_s=60),
         signals=(analog("voltage_1", "V", 228, 234, 0.1), analog("voltage_2", "V", 228, 234, 0.1),
                  analog("voltage_3", "V", 228, 234, 0.1), analog("current_1", "A", 60, 900, 0.1),
                  drift("winding_temp", "°C", 48, 96, 0.5), switch("fan_on", Phase.BURST), POWER_ON,
                  constant("rated_power", "kVA", 1000, 1600, 600))),
    Kind(prefix="panel", name="低压配电柜", class_key="power_distribution_equipment", maker=BODIAN, home="modbus_tcp",
         models=("BD-GGD", "BD-MNS"), rhythm=Rhythm(run_s=240, idle_s=60),
         signals=(analog("current_1", "A", 20, 480, 0.1), analog("current_2", "A", 20, 480, 0.1),
                  analog("current_3", "A", 20, 480, 0.1), analog("power", "kW", 8, 260, 0.01),
                  total("energy", "kWh", 8_000_000, 0.01, 5.0), switch("breaker_closed", Phase.IDLE, *ANY_WORK),
                  switch("earth_fault"), HEARTBEAT)),
    Kind(prefix="furn", name="中频感应电炉", class_key="metal_smelting_equipment", maker=JIANGZHU, home="modbus_tcp",
         models=("JZ-IF500",), industry="3391", rhythm=Rhythm(run_s=120, idle_s=40, cycle_s=30),
         signals=(analog("melt_temp", "°C", 780, 1480, 0.5, lag_s=40), analog("power", "kW", 12, 480, 0.1),
                  analog("frequency", "Hz", 480, 520, 0.1), drift("water_temp", "°C", 24, 41, 0.1), STATE, RUNNING,
                  switch("tilting", Phase.SETUP), counter("heats", 60_000))),
    Kind(prefix="conv", name="输送线", class_key="conveying_transport_equipment", maker=HENGSONG, home="sparkplug_b",
         models=("HS-BC20", "HS-RC35"), rhythm=Rhythm(cycle_s=5.0),
         signals=(gated("belt_speed", "m/min", 6, 24, 0.01), analog("motor_current", "A", 1.2, 9.6, 0.01),
                  counter("boxes", 1_000_000), RUNNING, switch("blocked", Phase.SETUP),
                  setpoint("speed_set", "m/min", 10, 24, 0.5), constant("length", "m", 12, 40, 1))),
    Kind(prefix="crane", name="立体仓库堆垛机", class_key="stereoscopic_warehouse_equipment", maker=HENGSONG,
         home="sparkplug_b", models=("HS-ASRS12",), rhythm=Rhythm(cycle_s=20.0),
         signals=(analog("position_x", "mm", 100, 41_000, 1.0, lag_s=6), analog("position_z", "mm", 100, 11_500, 1.0,
                  lag_s=4), gated("hoist_load", "kg", 40, 980, 1), counter("moves", 1_000_000), STATE, RUNNING,
                  switch("fork_extended", Phase.BURST), program("IN", "OUT", "SHUFFLE"))),
    Kind(prefix="feed", name="真空上料机", class_key="feeding_equipment", maker=HENGSONG, home="sparkplug_b",
         models=("HS-VF3",), signals=(analog("vacuum", "kPa", 4, 62, 0.1), drift("hopper_level", "%", 20, 90, 1.0, 60),
                                      counter("batches", 500_000), RUNNING, switch("hopper_empty", Phase.SETUP))),
    Kind(prefix="pack", name="装箱机", class_key="packaging_machinery", maker=HENGSONG, home="sparkplug_b",
         models=("HS-PK60", "HS-PK90"), rhythm=Rhythm(cycle_s=2.0),
         signals=(gated("rate", "1/min", 8, 60, 1), analog("air_pressure", "bar", 4.6, 6.3, 0.01),
                  analog("glue_temp", "°C", 148, 166, 0.1, lag_s=50), counter("cartons", 1_000_000), STATE, RUNNING,
                  DOOR, HEARTBEAT)),
    Kind(prefix="dust", name="布袋除尘器", class_key="pollution_control_equipment", maker=QINGLAN, home="mqtt",
         models=("QL-DMC96", "QL-DMC160"), rhythm=Rhythm(run_s=200, idle_s=30),
         signals=(analog("pressure_drop", "Pa", 280, 1450, 1.0), analog("dust", "mg/m3", 0.8, 9.5, 0.01),
                  RUNNING, switch("cleaning", Phase.BURST), constant("filter_area", "m2", 96, 160, 32))),
    Kind(prefix="gas", name="可燃气体报警器", class_key="work_safety_equipment", maker=QINGLAN, home="mqtt",
         models=("QL-GD4",), energy=False,
         signals=(analog("level_1", "%LEL", 0.4, 3.0, 0.01), analog("level_2", "%LEL", 0.4, 3.0, 0.01),
                  analog("level_3", "%LEL", 0.4, 3.0, 0.01), switch("alarm"), HEARTBEAT)),
    Kind(prefix="ana", name="在线水质分析仪", class_key="analytical_instrument", maker=JINGCE, home="mqtt",
         models=("JC-PH20", "JC-COD7"), energy=False,
         signals=(analog("ph", "", 6.6, 8.2, 0.01), analog("conductivity", "uS/cm", 320, 780, 0.1),
                  drift("water_temp", "°C", 16, 27, 0.1), switch("sampling", *ANY_WORK))),
    Kind(prefix="env", name="温湿度变送器", class_key="automation_instrument", maker=JINGCE, home="mqtt",
         models=("JC-TH1",), energy=False,
         signals=(analog("temperature", "°C", 19, 27, 0.01, lag_s=120), analog("humidity", "%", 38, 61, 0.1, lag_s=120),
                  constant("interval", "s", 1, 1.4, 1))),
)
"""Every kind, at least three for each protocol. A kind without `home` on a protocol can still be met there."""

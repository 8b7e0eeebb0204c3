"""Recording rules for GPUs, from NVIDIA's DCGM exporter; where there is none, they record nothing.

`Hostname` (`hostname` of exporters since 2026) and `gpu` name a device; a pod's name is left out, a device outlives it.
Source: https://docs.nvidia.com/datacenter/dcgm/latest/dcgm-api/dcgm-api-field-ids.html
"""

from monitoring.rule import Alert, Group, Rule

_LEVEL = "hostname_gpu"
_BY = "Hostname, gpu"
ERRORS = f"{_LEVEL}:dcgm_xid_errors:max"


def device_group() -> Group[Rule]:
    """Utilisation and memory as shares, temperature, power, clock and the last error of every GPU."""
    used, free = (_worst(f"DCGM_FI_DEV_FB_{part}") for part in ("USED", "FREE"))
    return Group(
        name="gpu",
        rules=(
            Rule(record=f"{_LEVEL}:dcgm_gpu_utilization:ratio", expr=f"{_worst('DCGM_FI_DEV_GPU_UTIL')} / 100"),
            Rule(record=f"{_LEVEL}:dcgm_memory_used:ratio", expr=f"{used} / ({used} + {free})"),
            Rule(record=f"{_LEVEL}:dcgm_temperature_celsius:max", expr=_worst("DCGM_FI_DEV_GPU_TEMP")),
            Rule(record=f"{_LEVEL}:dcgm_power_watts:max", expr=_worst("DCGM_FI_DEV_POWER_USAGE")),
            Rule(record=f"{_LEVEL}:dcgm_sm_clock_hertz:max", expr=f"{_worst('DCGM_FI_DEV_SM_CLOCK')} * 1e6"),
            Rule(record=ERRORS, expr=_worst("DCGM_FI_DEV_XID_ERRORS")),
        ),
    )


def device_alerts() -> Group[Alert]:
    """A GPU that reports errors."""
    return Group(
        name="gpu_alerts",
        rules=(
            Alert(
                name="GpuErrors",
                expr=f"{_worst('changes(DCGM_FI_DEV_XID_ERRORS[15m])')} > 0\nand {ERRORS} > 0",
                severity="critical",
                team="platform",
                summary="GPU {{ $labels.gpu }} of {{ $labels.Hostname }} reported XID errors in the last 15 minutes",
            ),
        ),
    )


def _worst(vector: str) -> str:
    return f'max by ({_BY}) (label_replace({vector}, "Hostname", "$1", "hostname", "(.+)"))'

"""What is known of the processor."""

from genmod._host import environment, machine

INTEL = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 85
model name\t: Intel(R) Xeon(R) CPU @ 2.00GHz
stepping\t: 3
flags\t\t: fpu sse sse2 fma avx avx2 avx512f sse4_2

processor\t: 1
model name\t: another
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd evtstrm sve\n\n"


def test_a_processor_is_its_model_and_its_vectors(tmp_path, monkeypatch):
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(machine, "_CPU", path)
    path.write_text(INTEL)
    assert machine.cpu() == (
        "Intel(R) Xeon(R) CPU @ 2.00GHz, cpu family 6, model 85, stepping 3, "
        "avx avx2 avx512f fma sse4_2"
    )
    path.write_text(ARM)
    assert machine.cpu() == "asimd sve"
    path.unlink()
    assert isinstance(machine.cpu(), str)


def test_a_run_on_a_cpu_records_it():
    assert environment.device()["cpu"] == machine.cpu()

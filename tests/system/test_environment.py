import importlib.metadata

from headstart.system import environment


def test_what_a_result_depends_on_is_known_by_its_version():
    found = environment.versions()
    computing = [name for name in ("tensorflow", "tensorflow-cpu", "jax", "jaxlib", "torch") if name.startswith(found["backend"])]
    installed = {distribution.name.replace("_", "-"): distribution.version for distribution in importlib.metadata.distributions()}
    for name in ["numpy", "scipy", "openvino", *computing]:
        assert found.get(name) == installed.get(name)
    assert any(name in found for name in computing)
    assert int(found["threads"]) <= int(found["cores"])

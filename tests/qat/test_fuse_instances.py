"""Every concrete pair of the rules that fuse, on all kinds of values: what is compared
are outputs, gradients and running statistics.
"""

from __future__ import annotations

from rewrite_engine import engine, load


def test_every_instance_is_right():
    found = engine.verify(load("qat_fuse"), trials=0)
    assert found.passed, str(found)
    instances = {rule.name: rule.instances for rule in found.rules}
    # Layers and their forms of `padding`; bias, gamma, beta.
    assert instances == {"fuse_conv_bn": 80, "fuse_grouped_conv_transpose_bn": 24}
    for rule in found.rules:
        assert rule.instances_run == rule.compared == rule.instances

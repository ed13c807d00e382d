"""OVF 1.x envelopes and manifests, to bring VMs in and out. Layout and worked bytes: SPEC.md."""

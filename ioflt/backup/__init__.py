"""Virtual disks read by transport modes, exports of them, backups of VMs and what is restored from those."""

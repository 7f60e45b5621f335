"""lava-dl's network exchange (netx): the ``.net`` file of a lowered network, and lava-dl's own netx to run one."""

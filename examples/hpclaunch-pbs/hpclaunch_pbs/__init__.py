"""PBS for hpclaunch; :mod:`hpclaunch_pbs.codec` has the codec."""

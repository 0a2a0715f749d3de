import re,sys,pathlib
p=pathlib.Path('.ci/arrows.py'); t=p.read_text()
rows={
 'simulators':['"simulators": set(),','"dev": {"domain", "store", "workflows", "simulators"},','"bench": {"dev", "domain", "store", "simulators"},'],
 'stack':['"simulators": set(),','"stack": {"domain", "store", "simulators"},','"dev": {"domain", "store", "simulators", "stack"},','"bench": {"dev", "domain", "store", "simulators", "stack"},'],
 'load':['"simulators": set(),','"stack": {"domain", "store", "simulators"},','"load": {"domain", "store", "simulators", "stack"},','"dev": {"domain", "store", "simulators", "stack", "load"},','"bench": {"dev", "domain", "store", "simulators", "stack", "load"},'],
 'tests':['"simulators": set(),','"stack": {"domain", "store", "simulators"},','"load": {"domain", "store", "simulators", "stack"},','"dev": {"simulators", "stack", "load"},','"bench": {"domain", "store", "simulators", "stack", "load"},','"tests": set(),'],
}[sys.argv[1]]
t=re.sub(r'(?m)^    ("(simulators|stack|load|dev|bench|tests)":|# Not in production).*\n','',t)
i=t.index('}\n# Crates that a layer must not even name')
t=t[:i]+'    # Not in production: nothing above depends on these.\n'+''.join(f'    {r}\n' for r in rows)+t[i:]
p.write_text(t)

"""After `git mv` (staged or not committed yet): rewrites the old paths in docs, comments and settings. docpaths.py [BASE]
Then lists every path to a .rs file (in backticks) that names no file: those are split files, to be mended by hand."""
import subprocess,sys,pathlib,re
base=sys.argv[1] if len(sys.argv)>1 else 'HEAD'
subprocess.run(['git','add','-A','-N'],check=True)
out=subprocess.run(['git','diff','-M40%','--name-status',base],capture_output=True,text=True).stdout
ren=[l.split('\t')[1:] for l in out.splitlines() if l.startswith('R')]
ren=[(a,b) for a,b in ren if a.endswith(('.rs','.md'))]
ren+=[(a[14:],b[14:]) for a,b in ren if a.startswith('workflows/src/order/') and b.startswith('workflows/src/')]
dirs=[('tests/it','tests/it'),('tests/histories','tests/histories'),('simulators/src/','simulators/src/'),('simulators/src`','simulators/src`'),('stack/src/invariants','stack/src/invariants'),('load/src/chaos','load/src/chaos'),('load/src','load/src')] 
dirs=[(a,b) for a,b in dirs if not pathlib.Path(a.rstrip('/`')).exists()]
files=subprocess.run(['git','ls-files','-co','--exclude-standard'],capture_output=True,text=True).stdout.split()
files=[f for f in files if f.endswith(('.md','.toml','.yml','.rs','.py','.sql')) or f.startswith('.ci/') or f=='Dockerfile']
files=[f for f in files if not f.startswith('vendor/')]
n=0
for f in files:
    p=pathlib.Path(f)
    if not p.exists(): continue
    t=u=p.read_text()
    for a,b in sorted(ren,key=lambda x:-len(x[0])): u=re.sub(r'(?<![\w/])'+re.escape(a)+r'(?!\w)',b,u)
    for a,b in dirs:
        if not f.endswith('.rs') or a in u: u=u.replace(a,b)
    if u!=t: p.write_text(u); n+=1
print(n,'files rewritten')
every=subprocess.run(['git','ls-files','-co','--exclude-standard'],capture_output=True,text=True).stdout.split()
every=[e for e in every if pathlib.Path(e).exists()]
for f in files:
    p=pathlib.Path(f)
    if not p.exists(): continue
    for i,l in enumerate(p.read_text().splitlines(),1):
        for m in re.findall(r'`([\w./-]+\.rs)`',l):
            if not any(e==m or e.endswith('/'+m) for e in every): print(f'{f}:{i}: {m}')
        for m in re.findall(r'`([a-z]+/(?:src|tests|it)[\w/.-]*)`',l):
            if not pathlib.Path(m).exists() and not m.endswith('.rs'): print(f'{f}:{i}: {m}')

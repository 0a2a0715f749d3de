import sys,re,pathlib; sys.path.insert(0,'plan/layout')
from moveitems import TOK
root=pathlib.Path(sys.argv[1]); lim=int(sys.argv[2]); out=[]
for f in sorted(root.rglob('*.rs')):
    if 'target' in f.parts or 'vendor' in f.parts: continue
    t=f.read_text(); ts=[(m.group(0),m.start()) for m in TOK.finditer(t) if not m.group(0).startswith(('//','/*'))]
    for i,(x,s) in enumerate(ts):
        if x=='fn' and i+1<len(ts) and re.match(r'[a-z_A-Z]\w*$',ts[i+1][0]):
            d=0;j=i;ok=False
            while j<len(ts):
                c=ts[j][0]
                if c in('(','['): d+=1
                elif c in(')',']'): d-=1
                elif c==';' and d==0: break
                elif c=='{' and d==0: ok=True;break
                j+=1
            if not ok: continue
            d=0
            while j<len(ts):
                if ts[j][0]=='{':d+=1
                if ts[j][0]=='}':
                    d-=1
                    if d==0:break
                j+=1
            a=t.count('\n',0,s)+1;b=t.count('\n',0,ts[j][1])+1
            if b-a+1>lim: out.append((b-a+1,f.relative_to(root).as_posix(),a,ts[i+1][0]))
for o in sorted(out,reverse=True): print(*o)

"""imports whose name does not occur in the rest of the file; and items of a file's sibling used but not imported are for the compiler. Compare with a baseline: unused.py ROOT > a"""
import sys,re,pathlib; sys.path.insert(0,'plan/layout'); import circles
root=pathlib.Path(sys.argv[1])
for f in sorted(root.rglob('*.rs')):
    if 'target' in f.parts or 'vendor' in f.parts: continue
    t=circles.toks(f.read_text()); uses=[];rest=[];i=0
    while i<len(t):
        if t[i]=='use' and (i==0 or t[i-1]!='.'):
            pub=i>0 and t[i-1] in('pub',')')
            l,j=circles.parse_use(t,i+1)
            if not pub: uses+=l
            i=j
        else: rest.append(t[i]); i+=1
    s=set(rest); txt=f.read_text()
    for p,a in uses:
        if a in('*','_') or a in s: continue
        if re.search(r'\b'+re.escape(a)+r'\b',re.sub(r'(?m)^\s*(pub(\([a-z]+\))? )?use [^;]*;','',txt)) : 
            pass
        print(f.relative_to(root).as_posix().replace('/service/','/runtime/'),'::'.join(p))

import sys,re,pathlib; sys.path.insert(0,'plan/layout'); import circles
from simulate import items
root=pathlib.Path(sys.argv[1])
PRE=set('Some None Ok Err Option Result Vec String Box Self Send Sync Clone Copy Debug PartialEq Eq Ord PartialOrd Hash Default Fn FnMut FnOnce Into From Iterator IntoIterator TryFrom TryInto AsRef Drop ToString ToOwned ExactSizeIterator DoubleEndedIterator Future IntoFuture Extend FromIterator Sized Unpin'.split())
for f in sorted(root.rglob('*.rs')):
    if 'target' in f.parts or 'vendor' in f.parts: continue
    t=circles.toks(f.read_text()); have=set(PRE);glob=[];i=0;rest=[]
    while i<len(t):
        if t[i]=='use' and (i==0 or t[i-1]!='.'):
            l,j=circles.parse_use(t,i+1)
            for p,a in l: have.add(a)
            glob+=['::'.join(p) for p,a in l if a=='*']
            i=j; continue
        if t[i] in('struct','enum','type','trait','const','static','fn','mod','macro_rules') and i+1<len(t): have.add(t[i+1] if t[i]!='macro_rules' else t[i+2])
        rest.append(t[i]); i+=1
    # generics <T, R: X>
    for k,x in enumerate(rest):
        if re.match(r'[A-Z]\w?$',x): have.add(x)
    seen=set()
    for k,x in enumerate(rest):
        prev=rest[k-1] if k else ''
        nxt=rest[k+1] if k+1<len(rest) else ''
        up=re.match(r'[A-Z]\w*$',x)
        lowpath=re.match(r'[a-z]\w*$',x) and nxt=='::' 
        fncall=re.match(r'[a-z]\w*$',x) and nxt=='(' and prev not in('fn','!')
        if (up or lowpath or fncall) and prev not in('::','.') and x not in have and x not in seen:
            seen.add(x); print(f.name if f.name not in('mod.rs','lib.rs','main.rs') else f.parent.name+'/'+f.name,x,'(glob)' if glob else '')

"""Rewrites Rust paths after modules have moved: nested `use` trees too (which sed can't). Then run `cargo fmt --all`.
usage: repath.py MAP FILE_OR_DIR...     (run AFTER the git mv)
MAP lines:  old::path new::path     longest prefix wins; `crate::` lines are for the crate that a file is in: restrict
them with a section header `[store]` (= applies to files below store/). Lines before any header apply everywhere."""
import sys,re,pathlib
sys.path.insert(0,str(pathlib.Path(__file__).parent))
TOK=re.compile(r'''//[^\n]*|/\*.*?\*/|b?r(?P<h>\#*)".*?"(?P=h)|b?"(?:\\.|[^"\\])*"|b?'(?:\\.[^']*|[^\\'])'|'[A-Za-z_]\w*|[A-Za-z_]\w*|::|[^\s]''',re.S)
def load(p):
    secs={'':[]};cur=''
    for l in pathlib.Path(p).read_text().splitlines():
        l=l.split('#')[0].strip()
        if not l: continue
        if l[0]=='[': cur=l[1:-1]; secs.setdefault(cur,[]); continue
        a,b=l.split(); secs[cur].append((tuple(a.split('::')),tuple(b.split('::'))))
    for k in secs: secs[k].sort(key=lambda x:-len(x[0]))
    return secs
def mapped(p,rules):
    p=tuple(p)
    for a,b in rules:
        if p[:len(a)]==a: return b+p[len(a):]
    return p
def tree(leaves):
    """leaves: list of (path,alias) with common handling -> text"""
    def build(ls):
        out=[];groups={}
        for p,a in ls:
            groups.setdefault(p[0],[]).append((p[1:],a))
        for h,sub in groups.items():
            parts=[]
            rest=[]
            for p,a in sub:
                if not p: parts.append(('self',a))
                else: rest.append((p,a))
            if not rest:
                for _,a in parts: out.append(h if a in(None,h) else f'{h} as {a}')
                continue
            inner=[('self' if a in(None,h) else f'self as {a}') for _,a in parts]+build(rest)
            out.append(f'{h}::{inner[0]}' if len(inner)==1 and not inner[0].startswith('self') else f'{h}::{{{", ".join(inner)}}}')
        return out
    return build(leaves)
def parse(ts,i):
    res=[]
    def go(i,pre):
        path=list(pre)
        while True:
            x=ts[i][0]
            if x=='::': i+=1;continue
            if x=='{':
                i+=1
                while ts[i][0]!='}':
                    i=go(i,path)
                    if ts[i][0]==',': i+=1
                return i+1
            if x=='*': res.append((tuple(path+['*']),None)); return i+1
            path.append(x); i+=1
            if ts[i][0]=='::': continue
            al=None
            if ts[i][0]=='as': al=ts[i+1][0]; i+=2
            if path[-1]=='self' and len(path)>1: path=path[:-1]
            res.append((tuple(path),al)); return i
    i=go(i,[]); return res,i
def rewrite(text,rules,alias=True):
    ts=[(m.group(0),m.start(),m.end()) for m in TOK.finditer(text) if not m.group(0).startswith(('//','/*'))]
    edits=[];i=0
    while i<len(ts):
        x,s,e=ts[i]
        if x=='use' and (i==0 or ts[i-1][0] in(';','}','{',']',')','pub')) :
            try: lst,j=parse(ts,i+1)
            except IndexError: i+=1;continue
            new=[(mapped(p,rules),a) for p,a in lst]
            # a leaf that was the module itself and is renamed keeps its local name
            new=[(q,(a if a else (p[-1] if alias and p[-1]!=q[-1] and p[-1]!='*' else None))) for (p,a),(q,_) in zip(lst,new)]
            if [q for q,_ in new]!=[p for p,_ in lst]:
                # prefix (visibility / attributes stay where they are)
                # indentation of statement
                uses=tree(new)
                k=i
                vis=''
                if i and ts[i-1][0]=='pub': vis='pub '
                elif i and ts[i-1][0]==')' : # pub(crate)
                    q=i-1
                    while ts[q][0]!='pub': q-=1
                    vis=text[ts[q][1]:ts[i-1][2]]+' '
                out=(';\n'+vis+'use ').join(uses)
                edits.append((ts[i+1][1],ts[j-1][2],out))
            i=j;continue
        if re.match(r'[A-Za-z_]\w*$',x) and not(i and ts[i-1][0] in('::','.')):
            j=i;path=[x]
            while j+2<len(ts) and ts[j+1][0]=='::' and re.match(r'[A-Za-z_]\w*$',ts[j+2][0]): path.append(ts[j+2][0]);j+=2
            if len(path)>1:
                q=mapped(path,rules)
                if list(q)!=path: edits.append((s,ts[j][2],'::'.join(q)))
            i=j
        i+=1
    for s,e,o in reversed(edits): text=text[:s]+o+text[e:]
    # doc links and comments: plain text replacement of full paths
    def com(m):
        l=m.group(0)
        for a,b in rules:
            if len(a)<2: continue
            l=re.sub(r'(?<![\w:])'+'::'.join(a)+r'(?=::|\b)(?!\w)', '\0'+'::'.join(b), l) if '::'.join(a)+'' in l and '\0' not in l else l
        return l.replace('\0','')
    text=re.sub(r'//[/!]?[^\n]*',com,text)
    return text
if __name__=='__main__':
    secs=load(sys.argv[1]); n=0
    for top in sys.argv[2:]:
        top=pathlib.Path(top)
        for f in ([top] if top.is_file() else sorted(top.rglob('*.rs'))):
            if 'target' in f.parts or 'vendor' in f.parts: continue
            rules=list(secs[''])
            for k,v in secs.items():
                if k and (k in f.parts): rules+=v
            rules.sort(key=lambda x:-len(x[0]))
            t=f.read_text(); u=rewrite(t,rules)
            if u!=t: f.write_text(u); n+=1
    print(n,'files rewritten')

"""Item-level dependency graph of a crate; lets one re-assign items to other modules and recompute circles.
usage as a library: see bottom of plan scripts."""
import sys,re,collections; sys.path.insert(0,'plan/layout')
import circles
KW={'fn','struct','enum','const','static','type','trait','union'}
def items(t):
    """split tokens of a file (tests stripped) into top-level items: list of (name, kind, tokens, ispub)"""
    out=[];i=0;n=len(t)
    while i<n:
        s=i;name=None;kind=None
        # attributes
        while i<n and t[i]=='#':
            j=i+1
            if t[j]=='!': j+=1
            d=0
            while True:
                if t[j]=='[':d+=1
                if t[j]==']':
                    d-=1
                    if d==0:break
                j+=1
            i=j+1
        if i>=n: break
        vis='' 
        if t[i]=='pub':
            vis='pub';i+=1
            if i<n and t[i]=='(':
                j=i
                while t[j]!=')': j+=1
                vis+=''.join(t[i:j+1]); i=j+1
        # find kind
        j=i
        while t[j] in ('async','unsafe','extern','default') or (t[j]=='const' and t[j+1] in ('fn','async')): j+=1
        k=t[j]
        if k in KW: kind=k;name=t[j+1]
        elif k in('use','mod'): kind=k;name=t[j+1]
        elif k=='impl':
            kind='impl';q=j+1;d=0;hdr=[]
            while t[q]!='{' : hdr.append(t[q]);q+=1
            name='impl '+''.join(hdr)
        elif k=='macro_rules': kind='macro';name=t[j+2]
        else: kind='other';name='other_%d'%s
        # end
        d=0;q=j
        angle=0
        while q<n:
            x=t[q]
            if x in('(','[','{'):d+=1
            elif x in(')',']','}'):
                d-=1
                if d==0 and x=='}' and kind not in('use','const','static','type'): q+=1;break
            elif x==';' and d==0: q+=1;break
            q+=1
        out.append((name,kind,t[s:q],vis)); i=q
    return out
class Sim:
    def __init__(s,crate,own,main='lib.rs',src='src'):
        s.c=circles.Crate(crate,own,main,src); s.c.analyse()
        s.items={}   # (mod,name) -> tokens ; impl get index
        s.vis={}; s.kind={}
        for mp,t in s.c.tok.items():
            cnt=collections.Counter()
            for name,kind,tk,vis in items(t):
                if kind in('use','mod'): continue
                if kind=='impl' or kind=='other':
                    cnt[name]+=1; key=(mp,f'{name}#{cnt[name]}')
                else: key=(mp,name)
                s.items[key]=tk; s.vis[key]=vis; s.kind[key]=kind
        s.names=collections.defaultdict(set)
        for (mp,nm) in s.items: s.names[mp].add(nm)
        s.refs={}
        for key,tk in s.items.items(): s.refs[key]=s.find(key[0],tk,key)
    def find(s,mp,tk,me):
        c=s.c; r=set()
        i=0
        # local uses in function bodies
        local={}
        j=0
        while j<len(tk):
            if tk[j]=='use':
                lst,e=circles.parse_use(tk,j+1)
                for p,a in lst:
                    ap=c.absol(mp,p)
                    if ap: local[a]=ap
                j=e
            else: j+=1
        def hit(ap):
            m,item=c.resolve(ap,True)
            if item=='(module)': return
            if (m,item) in s.items and (m,item)!=me: r.add((m,item))
        while i<len(tk):
            x=tk[i]
            if not re.match(r'[A-Za-z_]\w*$',x) or (i and tk[i-1] in('::','.')): i+=1;continue
            j=i;path=[x]
            while j+2<len(tk) and tk[j+1]=='::' and re.match(r'[A-Za-z_]\w*$',tk[j+2]): path.append(tk[j+2]);j+=2
            if path[0] in('crate','super','self',c.own) or mp+(path[0],) in c.files:
                ap=c.absol(mp,path)
                if ap: hit(ap)
            elif path[0] in local: hit(local[path[0]]+tuple(path[1:]))
            elif path[0] in c.reexp[mp]: hit(c.reexp[mp][path[0]]+tuple(path[1:]))
            elif path[0]!='_' and path[0] in s.names[mp] and not (i and tk[i-1] in ('fn','struct','enum','const','type','trait')):
                # same-file item (a struct field/variable of the same name may be a false friend)
                nxt=tk[j+1] if j+1<len(tk) else ''
                prev=tk[i-1] if i else ''
                k=s.kind[(mp,path[0])]
                if k=='fn' and nxt not in('(','::',',',')','.',';') : pass
                elif k=='fn' and nxt==':' : pass
                else:
                    if (mp,path[0])!=me: r.add((mp,path[0]))
            i=j+1
        return r
    def run(s,move,ignore_parent=True,only=None):
        """move: dict (mod tuple,item)->new mod tuple ; returns edges and circles"""
        new=lambda k: move.get(k,move.get((k[0],'*'),k[0]))
        e=collections.defaultdict(lambda: collections.defaultdict(set))
        vis=set()
        for k,rs in s.refs.items():
            a=new(k)
            for t in rs:
                b=new(t)
                if a!=b: e[a][b].add(t[1])
                if a!=b and s.vis[t]=='' and s.kind[t]!='impl': vis.add((t[0],t[1],b,a))
        nodes=set(e)|{b for d in e.values() for b in d}
        ee={a:[b for b in d if not(ignore_parent and len(b)<=len(a)*100 and len(b)>len(a) and b[:len(a)]==a)] for a,d in e.items()}
        comps=circles.scc(sorted(nodes),ee)
        return e,comps,vis

"""The frame of a trace's page: its style, its controls and its script. trace_page.py fills it."""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>@TITLE@</title>
<style>
body{font:15px/1.45 system-ui,sans-serif;max-width:1080px;margin:0 auto;padding:0 12px 8em;color:#222;background:#fff}
h1{font-size:1.35em}h2{font-size:1.15em;margin:1em 0 .2em;overflow-wrap:anywhere}p{margin:.4em 0}
.small{font-size:.8em;color:#555;overflow-wrap:anywhere}
.says{font:13px/1.4 ui-monospace,monospace;background:#f4f4f4;padding:.4em .6em;overflow-wrap:anywhere}
.figures{display:flex;flex-wrap:wrap;gap:1em}
figure{margin:0;max-width:100%}figcaption{font-size:.8em;max-width:14em;margin-bottom:.4em}
svg{max-width:100%;height:auto;display:block}
path{fill:#e4e4e4}.r{fill:#1f6fd0}.w{fill:#e06c10}.b{fill:#8a3fc0}
i.key{display:inline-block;width:.8em;height:.8em;margin:0 .2em 0 .7em}
table{border-collapse:collapse;display:block;overflow-x:auto;margin:.5em 0}
th,td{padding:.2em .7em;border:1px solid #ddd;text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
td i{display:block;height:4px;background:#1f6fd0}
pre{overflow-x:auto;font-size:12px}mark{background:#fff0c0}summary{cursor:pointer;margin:.5em 0}
#bar{position:fixed;left:0;right:0;bottom:0;background:#fffffff0;border-top:1px solid #bbb;padding:.5em 12px}
#bar div{max-width:1080px;margin:0 auto;display:flex;flex-wrap:wrap;gap:.5em;align-items:center}
#bar input[type=range]{flex:1 1 10em}button,select{font:inherit;min-height:2.2em;min-width:2.4em;max-width:100%}
html:not(.on) .js{display:none}
</style></head><body>
<h1>@TITLE@</h1>
<p>Each program of a kernel is one frame. A cell is an element, or a few of them, as its picture says:
<i class="key" style="background:#1f6fd0"></i>read<i class="key" style="background:#e06c10"></i>written<i class="key"
style="background:#8a3fc0"></i>both; fainter where only some of a cell's elements are touched. Loads that a mask
switches off are not counted.</p>
<noscript><p>Without JavaScript every launch shows its first program.</p></noscript>
@SECTIONS@
<div id="bar" class="js"><div>
<select id="launch" aria-label="launch"></select>
<button id="back" aria-label="program before">&#9664;</button><button id="play" aria-label="play">play</button>
<button id="next" aria-label="next program">&#9654;</button>
<input type="range" id="at" min="0" value="0" aria-label="program"><output id="count"></output>
<label><input type="checkbox" id="all"> all programs</label>
</div></div>
<script type="application/json" id="frames">@DATA@</script>
<script>
const $=id=>document.getElementById(id),data=JSON.parse($("frames").textContent),kinds=["","r","w","b"];
const sections=[...document.querySelectorAll("section")];
let launch=0,at=0,timer=null;
function paint(svg,cells){
 svg.querySelectorAll("[class]").forEach(c=>{c.removeAttribute("class");c.removeAttribute("style")});
 for(const [first,n,kind,opacity] of cells)for(let i=first;i<first+n;i++){
  svg.children[i].setAttribute("class",kinds[kind]);svg.children[i].style.fillOpacity=opacity}
}
function fill(table,values,row){
 Object.values(values).forEach((columns,k)=>{
  const most=Math.max(...columns.map(c=>c&&typeof c[row]==="number"?Math.abs(c[row]):0))||1;
  columns.forEach((c,j)=>{
   const td=table.rows[k+1].cells[j+1];
   td.textContent=c?c[row]:"skipped";td.style.color=c?"":"#999";
   const bar=td.appendChild(document.createElement("i"));
   bar.style.width=c&&typeof c[row]==="number"?100*Math.abs(c[row])/most+"%":0})})
}
function show(){
 const l=data[launch],s=sections[launch],all=$("all").checked,p=l.programs[at];
 sections.forEach((x,i)=>x.hidden=i!==launch);
 s.querySelectorAll("svg").forEach((svg,i)=>paint(svg,all?l.all[i]:p.cells[i]));
 s.querySelector(".says").textContent=all?"all programs together, darkest where most often":p.says;
 const row=s.querySelector(".row");
 if(row){s.querySelector(".which").value=row.value;fill(s.querySelector("table"),p.values,+row.value)}
 $("launch").value=launch;$("at").max=l.programs.length-1;$("at").value=at;
 $("count").value=`${at+1} of ${l.programs.length}`;
}
function go(to,n){stop();$("all").checked=false;launch=to;at=n;show()}
function stop(){clearInterval(timer);timer=null;$("play").textContent="play"}
function step(by){
 $("all").checked=false;at+=by;
 if(at>=data[launch].programs.length){if(launch+1<data.length){launch++;at=0}else{at--;stop()}}
 if(at<0){if(launch){launch--;at=data[launch].programs.length-1}else at=0}
 show()
}
data.forEach((l,i)=>$("launch").add(new Option(`${i+1}. ${l.kernel}`,i)));
$("launch").onchange=e=>go(+e.target.value,0);
$("at").oninput=e=>go(launch,+e.target.value);
$("back").onclick=()=>{stop();step(-1)};
$("next").onclick=()=>{stop();step(1)};
$("play").onclick=()=>{if(timer)stop();else{timer=setInterval(()=>step(1),700);$("play").textContent="stop"}};
$("all").onchange=show;
document.querySelectorAll(".row").forEach(r=>r.oninput=show);
document.onkeydown=e=>{
 if(e.target.type==="range"||e.target.tagName==="SELECT")return;
 if(e.key==="ArrowRight"||e.key==="ArrowLeft"){stop();step(e.key==="ArrowRight"?1:-1)}
};
document.documentElement.classList.add("on");
const asked=location.hash.slice(1).split(".").map(Number);
if(data[asked[0]-1]){launch=asked[0]-1;at=Math.min(asked[1]||0,data[launch].programs.length-1)}
show();
</script></body></html>
"""

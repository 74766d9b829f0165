"""The parity report's HTML page: one file, no library, works from disk."""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>Assay: the parity report</title>
<style>
body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2em auto;padding:0 1em;color:#222;background:#fff}
table{border-collapse:collapse;margin:1em 0;display:block;overflow-x:auto}
th,td{padding:.2em .7em;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}
th:first-child,td:first-child,.l{text-align:left}
#rows th{cursor:pointer;background:#f4f4f4;position:sticky;top:0}
.failed td{background:#fdd}
input,select{font:inherit;padding:.2em .5em;margin-right:.6em}
img{max-width:100%}
</style></head><body>
<h1>The parity report</h1>
<p>@SENTENCE@</p>
<p>Every value and gradient is compared with a float64 oracle, and so is PyTorch's own. <i>ratio</i> is our
root-mean-square error over PyTorch's (at least eps/8): 1 is PyTorch's accuracy, less is better than that.
<i>ulp</i> is our largest error in units of eps.</p>
@SUMMARY@
<h2>Training curves</h2>
@CURVES@
<h2>Every comparison, worst first</h2>
<p><input id="find" placeholder="case, e.g. conv_transpose2d/" size="30" aria-label="search">
<select id="dtype" aria-label="dtype"><option value="">all dtypes</option><option selected>float32</option>
<option>float16</option><option>float64</option></select><select id="family" aria-label="family">
<option value="">all families</option></select> <span id="count"></span></p>
<table id="rows"><thead></thead><tbody></tbody></table>
<script>
const data=@DATA@;
const names=["case","array","dtype","backend","entries","our rms e","PyTorch's","ratio","ulp"],MOST=500;
let by=7,down=true;
const $=id=>document.getElementById(id),cell=(v,i)=>v===null?"none":i===5||i===6?v.toExponential(2):v;
$("rows").tHead.innerHTML="<tr>"+names.map((n,i)=>`<th${i<4?' class="l"':""} data-i="${i}">${n}</th>`).join("")+"</tr>";
[...new Set(data.map(r=>r[10]))].forEach(f=>$("family").add(new Option(f)));
function show(){
 const word=$("find").value,dtype=$("dtype").value,family=$("family").value;
 const rows=data.filter(r=>r[0].includes(word)&&(!dtype||r[2]===dtype)&&(!family||r[10]===family));
 rows.sort((a,b)=>(a[9]-b[9])||((a[by]>b[by])-(a[by]<b[by]))*(down?-1:1));
 $("count").textContent=`${rows.length} comparisons`+(rows.length>MOST?`, the first ${MOST} shown`:"");
 $("rows").tBodies[0].innerHTML=rows.slice(0,MOST).map(r=>`<tr class="${r[9]?"":"failed"}">`+
  names.map((_,i)=>`<td${i<4?' class="l"':""}>${cell(r[i],i)}</td>`).join("")+"</tr>").join("");
}
$("rows").tHead.onclick=e=>{const i=+e.target.dataset.i;down=i===by?!down:true;by=i;show()};
["find","dtype","family"].forEach(id=>$(id).oninput=show);
show();
</script></body></html>
"""

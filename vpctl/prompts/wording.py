"""The word lists of the cleaning rules: noise, worn words, media, names, and unsafe words, collected from DiffusionDB.

One phrase per line, in lower case. Patterns are regular expressions of `re` with two changes: a space also matches a
hyphen, and ` ?` matches a space, a hyphen or nothing. Single words and names are plain text.
"""

DEGREES = """
absolutely amazing amazingly astonishingly beautifully best clear crazy crisp deeply excellent exceptional
exceptionally exquisite exquisitely extra extreme extremely fine finely foto fully good great hi high highest highly
hyper immensely incredible incredibly insane insanely intricate intricately masterfully max maximum mega meticulously
micro perfectly photo really remarkably richly sharp stunningly super superb superior top ultimate ultra unbelievably
very
""".split()

DEGREED = r"""
details?(?! of\b)
detailing
realism
quality
resolutions?
definition
res
""".split("\n")
"""Patterns of words that are noise after a word of DEGREES."""

QUALITY = r"""
(?:hyper|ultra|photo) ?real
(?:hyper|ultra|photo|foto) ?realist(?:ic|ically)?
(?:multi |multiple )?award ?win+ing
prize winning
""".split("\n")

# Noise is removed anywhere in a prompt, because no picture would show the difference. "Detailed", "sharp" or "elegant"
# alone may describe a thing, so these words are in the list of worn words below.
NOISE = r"""
(?:(?:in|very|perfect|hyper|ultra|super) ){,6}(?:sharp|crisp|hard|deep|clear|tack) ?foc+us+(?:ed)?(?! (?:on|of)\b)
(?:razor|ultra|hyper|super|extremely) ?sharp(?! (?:teeth|claw|edge|kni|blade|spike|nail|feature|fang|horn))
(?:full ?|ultra ?|true ?)?u?hdr?i?
ultra high definition
[hqf]q|[qf]hd
(?:2|4|5|6|8|10|12|16|20|24|32|64) ?kb?(?: (?:uhd|hdr?|resolution|res|quality|definition|ultra|textures?)\b)*
\d{3,4} ?p
\d{3,4} ?x ?\d{3,4}(?: ?px| pixels)?
\d+ ?[dp]pi
(?:1:1|2:3|3:2|3:4|4:3|9:16|16:9|21:9)
(?:an?|the) (?:(?:true|absolute) )?masterpiece(?=,|\.|$)
master(?:piece|work)s?(?! (?:of|by the|in|from)\b)
(?:\w+ )?contest winner
professional(?:ly)? (?:post ?processed|colou?r graded|retouched)
post ?process(?:ed|ing)|post ?production
tone ?mapp(?:ed|ing)
anti ?aliasing
studio quality
hyperealis(?:m|tic)
global illumination
sub ?surface scattering
ambient occlusion
physically based rendering
""".split("\n")

PLATFORMS = r"""
(?:art ?station|artsation|artsta?ion|artstaion|arstation|artstaton|artstion|artststion)(?: ?h[dq]\b)?
deviant ?art
pixi?v(?: fanbox)?
c?g ?society
behance(?: hd)?
fur ?affinity
polycount
zbrush ?central
dribbble
artfol
gfxartist
blendernation
zatista
artpal
artslant
artbox
artbreeder
danbooru
gelbooru
e ?621
500px
shutterstock
unsplash
mid ?journey
stable diffusion
craiyon
""".split("\n")

SOCIAL = r"""
pinterest
instagram
tumblr
reddit
flickr
twitter
facebook
youtube
tiktok
weibo
etsy
patreon
imgur
cg ?trader
dribb?le
sketchfab
""".split("\n")
"""Patterns of sites that may also be content, as in "an instagram selfie". They are noise only if something trends
there."""

# Not in this list: "unreal" alone is an adjective, "a blender" is a thing, and Houdini and Maya are people.
RENDERERS = r"""
octane
unreal ?engines?(?: ?\d(?:\.\d)?\b)?(?: 3d)?
unreal \d
ue ?[45]
cry ?engine
unity ?(?:engine|3d)
cinema ?4 ?d
c ?4 ?d
v ?ray
(?:arnold|redshift|corona|eevee|blender|cycles|houdini|maya) render(?:er|ed|ing)?
blender 3d
render(?:ed)? (?:in|with|by|using) (?:arnold|maya|blender|houdini|redshift|unity)
houdini fx
lumion
keyshot
marmoset(?: toolbag)?
z ?brush
substance (?:painter|designer|3d)
3ds? ?max
daz ?(?:3d|studio)
pov ?ray
(?:quixel )?megascans
nvidia(?: (?:rtx|omniverse|graphics))*
rtx(?: on)?
gtx ?\d+
ray ?trac(?:ing|ed|e)(?: (?:reflections|shadows|graphics))?
path ?trac(?:ing|ed)
lumen
nanite
frostbite(?: \d)? engine
adobe (?:photoshop|illustrator|lightroom|after effects)
photoshop(?:ped)?
clip studio paint
(?:paint ?tool )?sai ?2
corel painter
""".split("\n")

# Camera, lens and film stock say how a picture is made, not what it shows. "Wide angle", "macro", "fisheye", "black and
# white" and "polaroid" change what it shows, and stay. So do "sony", "gold" and "mount fuji" where they do not mean a
# camera or a film.
CAMERA = r"""
(?:\d{1,3} ?- ?)?\d{1,4} ?mm(?: (?:lens|lense|focal length|film)\b)?(?! (?:pistol|gun|bullet|round|tall|wide|thick))
(?:aperture )?[fƒ] ?/ ?\d+(?:\. ?\d+)?
(?:aperture )?[fƒ] ?\d+\. ?\d+(?: aperture)?
aperture [fƒ]? ?\d+|[fƒ] ?\d+ aperture
iso ?\d{2,4}|\d{2,4} iso
shutter speed(?: of)? 1 ?/ ?\d+ ?s?
1 ?/ ?\d{2,4} ?s
(?:canon|leica|nikon|olympus|pentax|sigma|sony)(?: eos)?(?: ?[a-z]{0,2} ?\d\w*(?: d)?(?: ?(?:mark|mk) \w+)?)+(?: mm)?
(?:arri|canon|leica|mamiya|nikon|olympus|panasonic|pentax|sigma|sony)(?: ?(?:alexa|alpha|art|camera|eos|lens|om d)\b)+
(?:hasselblad|nikon|rolleiflex|arriflex|carl zeiss|zeiss|fujifilm)(?: (?:camera|lens))?
fuji(?:color| color| film)?(?: (?:velvia|superia|provia|pro|film|\d\w*(?: h)?)\b)+
kodak(?: (?:portra|porta|film|camera|ektachrome|ektar|gold|vision3?|tri x|close|\d+\w*)\b)*
(?:ektachrome|portra|ektar|tri x) ?\d+(?: film)?
kodachrome|ektachrome|velvia
cinestill(?: ?\d+ ?[dt])?
ilford(?: hp ?\d)?
""".split("\n")

# Worn words are modifiers if they are alone between commas, or after noise. In a sentence they may be content and stay.
# A word is in this list if many people paste it into prompts. A word for a time, a colour, a mood, a movement, a
# framing or a thing ("golden hour", "muted colors", "eerie", "art deco", "close-up", "lens flare") is not worn.
WORN = r"""
(?:great |high )?attention to detail|visually stunning|breath ?taking|jaw dropping|mind blowing|awe inspiring
eye catching|true to life|life ?like|high ?end|in ?focus|high ?contrast|next gen|epic game graphics|render quality
well (?:composed|drawn|rendered|made)|physically accurate|anatomically correct|(?:very |highly |extremely )?coherent
flat design|(?:desktop |phone |mobile |cinematic |hd )?wallpaper|rule of thirds|golden ratio|triadic color scheme
(?:\w+ )?depth of field|dof|bokeh effect|anamorphic lens(?:es)?|(?:\w+ )?shutter speed|raw photo
fibonacci sequence|trending now
no (?:blur|dof|noise|grain|artifacts|watermarks?|signature|frames?|depth of field|duplicates?|bad anatomy)
without (?:blur|duplication|watermarks?)|not blurry|sfw(?: version)?|safe for work|worksafe|au naturel|f ?\d\d?
intricate|elegant|smooth|details?|detailed|elaborate|exquisite|complex|sophisticated|refined|polished
beautiful|gorgeous|stunning|amazing|awesome|incredible|magnificent|fantastic|wonderful|marvelous|spectacular
impressive|superb|astonishing|mesmerizing|perfect|perfection|perfectionism|flawless|professional|masterful|wow
epic|cinematic|filmic|cinematography|cinematographic|dramatic|dynamic|volumetrics?|artistic|aesthetics?|creative
expressive|visionary|inspired|crisp|clean|sharp|sharpness|focus|focused|clarity|contrast|vibrant|vivid|accurate
realistic|realism|realist|photographic|minimalist|minimalistic|minimal|digital|matte|raw|unedited
hyper|ultra|insane|extreme|highest|best|awards?|winner|trending|viral|popular|featured|official|megapixel
renders?|rendered|rendering|vfx|cgi|shaders?|shading|shaded|reflections|graphics|tessellation|lut|pbr|cuda|brdf
caustics|bloom|bokeh|anamorphic|dslr|uncompressed|denoised?|fibonacci|textless|ps5|octane|unreal|procreate
canon|sony|sigma|leica|olympus|pentax|fujifilm|imax|panavision|blender|houdini|maya|unity|redshift|daz
photographed|illustrated|drawn|sketched|designed|directed
""".split("\n")

LIGHT = """
accent amazing ambient atmospheric awesome beautiful beautifully best brilliant cinematic crepuscular crisp detailed
diffuse diffused dim dramatic dynamic epic excellent extremely fantastic global good gorgeous great hard hdr high
incredible intense intricate nice perfect professional radiant rayed realistic rich rim shaded soft strong stunning
uplifting very volumetric wonderful
""".split()
LIT = "lighting lightning light lights lit illumination illuminated shadow shadows shading shaded rays".split()
"""Words that are worn after a word of LIGHT."""

PRAISE = """
accurate amazing astonishing award awesome beautiful best breathtaking brilliant cinematic clean clear cohesive
complex correct crisp defined detailed dramatic dynamic elegant epic excellent exceptional exquisite extreme extremely
fantastic fine gorgeous great high highly hyper incredible insane insanely inspiring intricate majestic masterful
masterfully meticulous nice perfect perfectly polished precise professional realistic rich sharp smooth sophisticated
stunning superb ultra very vibrant vivid well wonderful
""".split()
PRAISED = r"""
anatomy
angle
aesthetics?
art ?work
colou?rs?
colou?r (?:scheme|palette|composition)
complexity
composition
contrast
depth
design
environment
framing
gradients?
graphics
image
line ?(?:art|work)
look
lines
perspective
picture
proportions?
quality
reflections?
render(?:ing|ed|s)?
scene
shot
textures?
view
visuals?
work
""".split("\n")
"""Patterns of words that are worn after a word of PRAISE."""

EXACT = """
accurate anatomically correct defined detailed fine hyper intricate perfect perfectly precise realistic
""".split()
PARTS = r"""
(?:facial )?(?:features?|muscles|proportions)
anatomy
background
body
eyes?
faces?
hands?
pupils?
skin(?: texture)?
symmetry
""".split("\n")
"""Patterns of words that are worn after a word of EXACT: "perfect face" is worn, but "beautiful face" is not."""

# A stock medium that is alone after the subject is a pasted modifier. Before the subject, it is part of the sentence.
STOCK = r"""
(?:\w+ )?concept art(?:work|ist)?
character (?:art|concept)
(?:(?:digital|fantasy|official|epic|modern|fine|2d|cg|hd|cinematic|sci ?fi) ){,6}art ?(?:works?|style)?
(?:(?:award|comic|book|cover|fan|furry|game|key|poster|splash) ?){1,6}art(?: ?works?)?
digital (?:2d|illustration|painting|drawing|anime art|media)
(?:semi realistic |realistic |fantasy )?ill?ustrations?
(?:matte|organic|studio|smooth) (?:painting|print)
painted|painterly
(?:oil|acrylic|gouache|airbrush|oil paint|mixed media)(?: paint)? on (?:canvas|linen|panel|board)
water ?colou?rs?|gouache|acrylics?|airbrush
vector(?: art| illustration| graphics?| design)?
images?|pictures?|render style
""".split("\n")

# Different media contradict one another. The first one is kept, and a later one that is alone in its clause is dropped.
MEDIA = r"""
photo(?:graph)?s?
photography|photo ?shoot
(?:film|movie|cinematic|cinema|tv) (?:still|screen ?shot|frame)
polaroid|daguerreotype|tintype|wetplate
(?:oil|water ?colou?r|acrylic|gouache|ink|impressionist|pastel|tempera|airbrush|abstract|surrealist) painting
painting
(?:pencil|ink|charcoal|pen|chalk|crayon|line|pen and ink|pastel)? ?(?:sketch|drawing)e?s?
line ?art|lineart
etching|engraving|woodcut|woodblock print|linocut|lithograph
anime(?: (?:style|art|artwork|aesthetic|illustration|key visual|still|screenshot|drawing))?
manga(?: (?:style|art|panel|illustration))?
cartoon(?: (?:style|art))?
comic(?: book)?(?: (?:style|art|panel|illustration))?
(?:3d |cg |computer |digital )?(?:render|renders|rendering|model|animation)
3d|cg|3d art|3d style
pixel art|voxel art|low ?poly|claymation|stop motion
""".split("\n")

# Each of these words in a sentence names its medium.
WORDS_OF_MEDIA = """
3d anime artwork cartoon claymation comic daguerreotype drawing engraving etching footage illustration linocut
lithograph manga painted painting photo photograph photography photos pixel polaroid render rendering screenshot
sketch still tintype watercolor watercolour woodcut
""".split()

# People who are named for their style and hardly ever shown, and studios. Written without dots; initials are separate.
ARTISTS = """
aaron horkey, adam styka, adolf wolfli, adolphe bouguereau, adrian ghenie, afshar petros, agnes cecile, agnes pelton,
agostino arrivabene, aivazovsky, akihiko yoshida, akihito tsukushi, al williamson, alan lee, albert aublet,
albert bierstadt, alberto seveso, alberto vargas, albrecht durer, aleksi briclot, alena aenami, alessio albi,
alex gray, alex grey, alex malveda, alex ross, alexander jansson, alexander mcqueen, alexandra fomina,
alexandra petruk, alexandre cabanel, alexandre ferra, alexandros pyromallis, alexis franklin, alfons maria mucha,
alfons mucha, alfred kelsner, alfred kubin, allen williams, alma tadema, alohonse mucha, alphons mucha,
alphonse mucha, alphonso azpiri, alphonso mucha, alsphonse mucha, alyssa monks, amanda sage, amano, anato finnstark,
anders zorn, andre kohn, andreas achenbach, andreas rocha, andrei riabovitchev, andrei tarkovsky, andrew wyeth,
android james, android jones, angus mckie, anna bocek, anna dittman, anna dittmann, anna nikonova, anna podedworna,
anne bachelier, anne stokes, annibale carracci, annie leibovitz, annie leibowitz, annie liebovitz, annie swynnerton,
anselm kiefer, anton fadeev, anton fedeev, anton pieck, antonio mora, ari gibson, arnold bocklin, art germ,
artem demura, artey freytag, artgem, artgerm, artgerm lau, arthur adams, arthur rackham, artur bordalo,
asher brown durand, asher durand, ashley wood, atey ghailan, aubrey beardsley, audrey kawasaki,
august friedrich schenck, auguste bourotte, austin osman spare, avetetsuya studios, ayami kojima, banksy,
barclay shaw, barlowe wayne, bastien lecouffe deharme, bayard wu, beeple, beksinski, ben templesmith, benedick bana,
bernard buffet, bernie fuchs, bernie wrightson, beth cavener, bilibin, bill sienkiewicz, billelis, bjarke ingels,
bo bartlett, bo chen, bob byerley, bob eggleton, bob peak, boris vallejo, bosch, bouguereau, bowater, brad kunkle,
brad rigney, brett weston, brian despain, brian froud, brian ingram, brian sum, briton riviere, britt marling, brom,
brosmind, bruce brenneise, bruce pennington, bruegel, bruno munari, butcher billy, camille corot, camille pissarro,
canaletto, caravaggio, carl barks, carl gustav carus, carl larsson, carl spitzweg, carl warner, carlo crivelli,
carne griffiths, carol bak, casey weldon, caspar david friedrich, caspar friedrich, catrin welz stein,
cedric peyravernay, charlie bowater, chesley bonestell, chie yoshii, chiho aoshima, chris bachalo, chris cold,
chris foss, chris mars, chris moore, chris rallis, chris riddell, chris tulloch mccabe, christian macnevin,
christophe vacher, christopher balaskas, cicely mary barker, claire wendling, claude monet, clayton crain,
cliff chiang, clint cearley, clyde caldwell, coby whitmore, conrad roset, cory loftis, craig davison, craig mallismo,
craig mullins, craola, cushart krentz, cushart krenz, cy twombly, cyril rolando, dan dos santos, dan hillier,
dan mcpharlin, dan mumford, dan seagrave, dan witz, daniel conway, daniel dociu, daniel f gerhartz, daniel gerhartz,
daniel merriam, daniel ridgway knight, dante gabriel rossetti, darek zabrocki, dariusz zawadzki, dave dorman,
dave mckean, davi blight, david a hardy, david aja, david kostic, david la chapelle, david lachapelle, david lazar,
david mattingly, david rudnick, david schnell, davinci, dawid planeta, dean cornwell, dean ellis, delphin enjolras,
denis sarazhin, derek gores, derek zabrocki, diego dayer, diego koi, dino valls, disney concept artists, don bluth,
don lawrence, donata giancola, donato giancola, dorothea tanning, doug chiang, dougherty patrick, drew struzan,
druillet, dustin nguyen, dylan cole, dzo, earl norem, earle bergey, easo andrews, ed mell, ed repka, ed roth,
eddie mendoza, edgar maxence, edmund blair leighton, edmund dulac, edmund leighton, edvard munch, edward burne jones,
edward gorey, edward hooper, edward hopper, edward robert hughes, edwin longsden long, edwin lord weeks, egon schiele,
el lissitzky, elena masci, ellen jewett, emil melmoth, emiliano ponzi, emmanuel lubezki, emmanuel shiu, enki bilal,
enric torres, erak note, eric zener, erik jones, ernst fuchs, ernst haeckel, ernt haeckel, esao andrews, escher,
esper ejsing, esuthio, eugene de blaas, eugene delacroix, evelyn de morgan, everett raymond kinstler, evgeny lushpin,
eytan zana, eyvind earle, federico pelat, feifei ruan, felicien rops, feng zhu, fenghua zhong, ferdinand knab,
fernanda suarez, filip hodas, filipe pagliuso, finnian macmanus, fintan magee, fiona staples, flora borsi,
fra angelico, francesco solimena, francis bacon, francis danby, francisco goya, francoise nielly, frank auerbach,
frank fanzzeta, frank franzzeta, frank frazetta, frank stella, franklin booth, frans hals, franz sedlacek,
franz xaver winterhalter, frazetta, frederic church, frederic edwin church, frederic leighton, frederick edwin church,
fritz willis, fuji choko, gabriel dawe, gabriele dell otto, gainax, gaston bussiere, gaston bussière, gaudi,
gediminas pranckevicius, gehry, gemi ningen, geof darrow, geoffrooy thoorens, geoffroy thoorens, george ault,
george inness, georges seurat, georgia o keeffe, georgia okeeffe, gerald brom, gerard ter borch, gerhard richter,
ghibli, ghibli studio, giger, gil elvgren, gilbert williams, gilleard james, giorgio de chirico,
giovanni battista piranesi, giuseppe arcimboldo, giuseppe dangelico pino, glen small, glenn fabry, goro fujita,
grant wood, greg capullo, greg hildebrandt, greg manchess, greg rutknowski, greg rutkoswki, greg rutkovsky,
greg rutkowki, greg rutkowksi, greg rutkowsi, greg rutkowsk, greg rutkowska, greg rutkowski, greg rutkowskii,
greg rutkowsky, greg rutokwski, greg rutowski, greg rutowsky, greg rutowtski, greg rutswoski, greg simkins,
greg staples, greg tocchini, gregory crewdson, gregory manchess, gregory rutkowski, guangjian huang, guido crepax,
gustav dore, gustav klimt, gustav moreau, gustave baumann, gustave courbet, gustave dore, gustave doré,
gustave moreau, guweiz, guy denning, h g giger, h p lovecraft, h r giger, hajime sorayama, hans bellmer, hans dahl,
hans thoma, hans zatzka, hariton pushwagner, harriet backer, harumi hironaka, hasui kawase, heather theurer,
heironymous bosch, helen huang, heng z, henri matisse, henri rousseau, henry asencio, hermann nitsch, hernan bas,
hidari, hieronymus bosch, hikari shimoda, hilma af klint, hiroaki samura, hirohiko araki, hiroshi nagai,
hiroshi yoshida, hiroshige, hoang lap, hokusai, howard pyle, hr giger, hsiao ron cheng, huang guangjian,
hubert robert, hugh ferriss, hyeyoung kim, hyung tae, hyung tae kim, ian mcque, ian miller, ian sprigger,
ichiro tanida, ignacio fernandez rios, igor morski, illya kuvshinov, ilm, ilvya kuvshinov, ilya kushinov,
ilya kuvshinov, ilya repin, ina wong, indi sulta, industrial light and magic, irakli nadar, iris van herpen,
isaac levitan, ismail inceoglu, istvan sandorfi, ivan aivazovsky, ivan bilibin, ivan shishkin, ivan talavera,
j c leyendecker, j m w turner, jacek malczewski, jacek yerka, jack gaughan, jack kirby, jacques louis david,
jaime jones, jake parker, jakub rebelka, jakub rozalski, jama jurabaev, james c christensen, james gilleard,
james gurney, james jean, james nachtwey, james paick, james tissot, jamie hewlett, jan matejko, jan svankmeyer,
jan van eyck, jarold sng, jason chan, jason edmiston, jason felix, jc leyendecker, jean baptiste monge, jean delville,
jean deville, jean giraud, jean honore fragonard, jean michel basquiat, jeff easley, jeff koons, jeff simpson,
jeffery catherine jones, jeffrey catherine jones, jeffrey smith, jen zee, jenny saville, jeremiah ketner,
jeremy geddes, jeremy lipkin, jeremy lipking, jeremy mann, jeremy pitkin, jeremyg lipkinng, jesper ejsing,
jessica oyhenart, jessica rossier, jheronimus bosch, jim burns, jim lee, jim mahfood, jim woodring, jimmy nelson,
jimmy nelsson, jin xiaodi, jmw turner, joan miro, joao ruas, joaquin sorolla, joe fenton, joe gb fenton, joe jusko,
joel meyerowitz, johannes vermeer, johannes voss, johfra bosschart, john atkinson grimshaw, john bauer, john berkey,
john berkley, john blanche, john collier, john constable, john everett millais, john foster, john harris, john howe,
john j park, john kirby, john martin, john park, john philip falter, john schoenherr, john singer sargent,
john stephens, john william godward, john william waterhouse, johnson ting, jon foster, jonas de ro, jordan grimmer,
jorge jacinto, josan gonzales, josan gonzalez, josef thoma, joseph christian leyendecker, joseph cornell,
joseph leyendecker, joseph wright of derby, josephine wall, josh kirby, joshua middleton, jules bastien lepage,
julie bell, julie dillon, junji ito, justin gerard, justin sweet, kadir nelson, kaethe butcher, kai carpenter,
kaikai kiki, kan liu, kandinsky, karl spitzweg, karla ortiz, karol bak, katsuhiro otomo, katsuya terada, kawacy,
kawase hasui, kaws, kay nielsen, kazimir malevich, kazuo oga, kehinde wiley, keith parkinson, keith thompson,
kelly freas, kelly mckernan, ken sugimori, kentaro miura, kentarõ miura, kentarō miura, kev walker, kevin kostic,
kilian eng, kilin eng, killian eng, kim jung gi, kim keever, klimt, konstantin razumov, krenz c, krenz cushart,
krenz kushart, kuldar leement, kusama, kuvshinov, kuvshinov ilya, kyoani, kyoto animation, kyoto studio,
lauire lipton, laura sava, laurel burch, laurie greasley, laurie lipton, lawrence alma tadema, lee bermejo,
lee jeffries, lee madgwick, leesha hannigan, lehr paul, leon tukker, leonid afremov, les edwards, letizia battaglia,
leyendecker, liam brazier, liam wong, lisa frank, livia prima, lois van baar, lois van baarle, lois van baerle, loish,
loreta lux, loretta lux, louis comfort tiffany, louis wain, louise dahl wolfe, lovis corinth, luc tuymans,
lucas graciano, lucian freud, luis royo, lynda benglis, m c escher, maciej kuciara, madhouse, magali villanueve,
magali villeneuve, magalie villeneuve, magritte, makoto shinkai, makoto shinkaib, malevich, mandy jurgens,
marc adamus, marc davis, marc hill, marc simonetti, marcin jakubowski, marco mazzoni, marco paludet,
mariusz lewandowski, mark arian, mark brookes, mark brooks, mark keathley, mark maggiori, mark riddick, mark rothko,
mark ryden, mark schultz, mars ravelo, martin ansin, martin deschambault, martin johnson heade, martin schoeller,
martine johanna, mary blair, mary jane ansell, masamune shirow, mati klarwein, matt wisniewski, mattias adolfsson,
max ernst, maxfield parrish, maxim verehin, maxime verehin, maya takamura, mc escher, mcbess, mengo yokoyari,
micha klein, michael cheval, michael divine, michael garmash, michael hussar, michael hutter, michael kaluta,
michael komarck, michael parkes, michael whealan, michael whelan, michal karcz, miho hirano, mika asai, mike allred,
mike campau, mike deodato, mike mignola, mike nash, mike winkelmann, mikhail nesterov, mikhail vrubel, miles aldridge,
miles johnston, milo manara, mitchell mohrhauser, miyazaki hayao, moebius, mohrbacher, mondrian, monet, monia merlo,
mucha, murata range, mœbius, n c wyeth, naoto hattori, nasreddine dinet, natalie shau, nathan coley, nc wyeth,
neal adams, neil blevins, nekro, nekro borja, nekro xiii, neville page, newmilky, ngai victo, nicholas cort,
nicholas roerich, nick alm, nick knight, nick sullo, nicola samori, nicolas delort, nicolas samori, nicoletta ceccoli,
nigel tomm, nihei tsutomu, nikolay makovsky, nina hamnett, nixeu, noah bradley, nobuyoshi araki, noriyoshi ohrai,
norman rockwell, odd nerdrum, odilon redon, ohara koson, oleg turchin, olga shvartsur, oliver valsecchi,
olivier valsecchi, oskar kokoschka, ossdraws, otto dix, pablo amaringo, pan ren wei, paolo roversi, pascal blanche,
patrice murciano, patrick nagel, paul bonner, paul cezanne, paul delaroche, paul delvaux, paul gauguin,
paul gustave dore, paul klee, paul lehr, paul pepera, pete mohrbacher, peter andrew jones, peter doig, peter elson,
peter gric, peter konig, peter lindbergh, peter mohrbacher, peter morbacher, peter paul rubens, peter tarka,
petros afshar, phil koch, philippe caza, philippe druillet, piet mondrian, pieter bruegel, pieter bruegel the elder,
pino daeni, piotr jablonski, pixar, pj crook, pontormo, qing han, quentin blake, quentin mabille, quint buchholz,
rafal olbinski, raffaello sanzi, raffaello sanzio, ralph horsley, ralph mcquarrie, ralph steadman, randy vargas,
range murata, raphael lacoste, ray caesar, raymond swanland, rebecca guay, rembrandt, rembrandt van rijn,
remedios varo, ren hang, rene magritte, reza afshar, rhads, richard anderson, richard avedon, richard corben,
richard dadd, richard estes, rick wade, rob gonsalves, rob liefeld, rob rey, robby dwi antono, robert crumb,
robert hubert, robert mccall, roberto ferri, roby dwi antono, rockwell kent, rodcenko, rodger dean, rodney matthews,
roger ballen, roger deakins, roger dean, rolf armstrong, romero ressendi, ron cheng, ron cobb, ron english, ron mueck,
rongzhen luo, ross draws, ross tran, ross tron, rossdraws, ruan jia, rubens, russ mills, rutkovsky, rutkowski,
ryan dyar, ryohei hase, sachin ten, sachin teng, sakimichan, sakimimichan, sam bosma, sam guay, sam kieth, sam spratt,
sam yang, sana takeda, sandra chevrier, sandro botticelli, santiago caruso, sarah andersen, satoshi kon,
saturno butto, saul leiter, savrasov levitan polenov, scott adams, seb mckinnon, serafleur, serge marshennikov,
sergey kolesov, sergio toppi, seseon yoon, shaddy safadi, shaun tan, shepard fairey, shigenori soejima,
shigeru komatsuzaki, shinji aramaki, shinji kimura, shohei otomo, shusei nagaoka, simon bisley, simon stalberg,
simon stalenhag, simon stålenhag, slawomir maniak, sophie anderson, sorolla, sparth, stanislav szukalski,
stanislaw beksinski, stanisław szukalski, stanley artger m lau, stanley artgerm, stanley artgerm lau,
stanley artgermm, stanley lau, stefan gesell, stefan kostic, stefano tamburini, stephan martiniere, stephanie law,
stephen bliss, stephen gammell, stephen hickman, stephen lau, stephen martiniere, steve argyle, steve ditko,
steve mccurry, steve simpson, steve zheng, steven artgerm lau, steven belledin, steven outram, studio ghibil,
studio ghibli, studio ghibly, studio muti, studio trigger, suehiro maruo, sung choi, syd mead, syd meade,
sylvain sarrailh, takashi murakami, takashi takeuchi, takato yamamoto, takato yomamoto, takehiko inoue, takeshi obata,
tamara de lempicka, tatsuki fujimoto, ted nasmith, teng sachin, terada katsuya, tetsuya nomura, theo prins,
theodore ralli, thierry doizon, thomas blackshear, thomas cole, thomas gainsborough, thomas kincade, thomas kindkade,
thomas kinkade, thomas moran, thomas river, thores shibamoto, tian zi, tianhua xu, tiffany bozic, tim doyle,
tim hildebrandt, tim jacobus, tim white, tino rodriguez, tom bagshaw, tom lovell, tom of finland, tom thomson,
tom whalen, tomasz alen kopera, tomasz jedruszek, tomer hanuka, tomokazu matsuyama, tomoyuki yamasaki,
tony diterlizzi, tony moore, tony sart, tooth wu, toulouse lautrec, tran nguyen, travis charest, trevor brown,
trevor henderson, tristan eaton, tsutomu niehi, tsutomu nihei, tuomas kocar, tuomas korpi, tyler edlin,
tyler jacobson, tyler west, uang guangjian, ueda shoji, ufotable, utagawa kuniyoshi, valentina remenar, vance kovacs,
vania zouravliov, vasily kandinsky, vermeer, victo ngai, viktoria gavrilenko, vincent bons, vincent di fate,
virgil finlay, virginia frances sterrett, vitaly bulgarov, vladimir kush, vladimir motsar, vladimir volegov, vofan,
wadim kashin, wally wood, walter crane, walton ford, wangechi mutu, warren louw, wassily kandinsky, wayne barlow,
wayne barlowe, wayne d barlowe, wayne reynolds, wayne thiebaud, wendy froud, wenjun lin, weta, weta digital,
weta workshop, will eisner, willem claesz heda, william adolphe bouguerea, william adolphe bouguereau,
william bouguereau, william eggleton, william morris, winslow homer, wlop, wojciech siudmak, wolfgang lettl,
xiang duan, yaacov agam, yanjun cheng, yasar vurdem, yasushi nirasawa, yayoi kasuma, yayoi kusama, yoann lossel,
yoh yoshinari, yoichi hatakenaka, yoji shinkawa, yoko d holbachie, yoko dholbachie, yoko taro, yoneyama mai,
yoshinari yoh, yoshitaka amano, yoshitako amano, yue minjun, yukito kishiro, yusuke murata, yuumei, yves tanguy,
zacharias martin aagaard, zaha hadid, zawadzki, zdenek burian, zdislav beksinski, zdizslaw beksinski,
zdzislaw beksinski, zdzislaw beksiński, zdzisław beksinski, zdzisław beksiński, zhang jingna, zhang kechun,
zhong fenghua
"""

# People who are famous enough to be shown, names that are also words, and makers that are also things. They are credits
# only after "by", with "style", or in a list of other artists.
FAMOUS = """
aardman, activision, adult swim, akira kurosawa, akira toriyama, alan moore, alejandro jodorowsky, alfred hitchcock,
andy warhol, angelina jolie, bagshaw, bandai, bethesda, bierstadt, blizzard, blizzard entertainment, bob ross, bones,
bungie, capcom, cartoon network, cd projekt red, charles dickens, christopher nolan, chuck jones, cronenberg,
da vinci, dali, dall e, david bowie, david cronenberg, david fincher, david hockney, david lynch, dc comics, degas,
delacroix, denis villeneuve, diego rivera, diego velazquez, disney, disney animation, disney pixar, disney studios,
dr seuss, dr suess, dreamworks, dreamworks animation, elson, emily carr, frank gehry, frank lloyd wright,
frank miller, frida kahlo, gauguin, gonsalves, goya, guillermo del toro, hanna barbera, hayao miyazaki, hideo kojima,
hildebrandt, hitchcock, hopper, hp lovecraft, ian hubert, jackson pollock, james cameron, jim henson, jodorowsky,
john carpenter, kinkade, kojima, koons, kotobukiya, kubrick, kurosawa, lacoste, laika, leonardo, leonardo da vinci,
leonardo davinci, lovecraft, lucasfilm, man ray, mappa, mario testino, marvel, marvel comics, matisse, matt groening,
mcquarrie, michael bay, michelangelo, midjourney, mignola, miyazaki, mullins, nasa, national geographic, nickelodeon,
nintendo, osamu tezuka, pablo picasso, parrish, pennington, peter jackson, picasso, pollock, quentin tarantino,
rackham, rankin, rankin bass, raphael, repin, rick and morty, rick baker, ridley scott, riot games, robotpencil, rodin,
royo, ryden,
salvador dali, sargent, seurat, shishkin, square enix, stalenhag, stan lee, stan winston, stanley kubrick,
stephen king, steven spielberg, stålenhag, szukalski, tarkovsky, terry gilliam, terry richardson, the coen brothers,
tim burton, titian, toei animation, turner, ubisoft, vallejo, valve, van eyck, van gogh, vargas, vasnetsov,
vincent van gogh,
vogue, walt disney, warhol, waterhouse, wes anderson, wes craven, whistler, william blake, william turner, zack snyder
"""

# Films and games whose style prompts borrow. A title stays, unless it follows an artist in a list.
TITLES = """
adventure time, arcane, bioshock, bloodborne, borderlands, brawl stars, clash of clans, clash royale, cuphead,
cyberpunk 2077, d&d, dark souls, dead space, diablo, disco elysium, dishonored, dragon ball, dragonball,
dungeons and dragons, elden ring, elder scrolls, evangelion, fallout, family guy, final fantasy, fornite, fortnite,
game of thrones, genshin impact, ghost in the shell, grand theft auto, gta, gta 5, gta v, halo, hearthstone,
horizon zero dawn, into the spider verse, jet set radio, league of legends, lord of the rings, magic the gathering,
mass effect, metal gear solid, metal slug, minecraft, monster hunter, neon genesis evangelion, overwatch, persona 5,
pokemon, red dead redemption, resident evil, rick and morty, silent hill, simpsons, skyrim, sonic the hedgehog,
south park, spirited away, star citizen, star wars, starcraft, starfield, steven universe, team fortress 2,
the last of us, the legend of zelda, the simpsons, the witcher, the witcher 3, tomb raider, valorant, warcraft,
warframe, warhammer, warhammer 40k, warhammer fantasy, witcher, world of warcraft, wow, zelda, zootopia
"""

# First names of artists. In a list of artists, one of these and a word that is not an English word are a name. "Rose",
# "Jack" and similar names are left out.
GIVEN_NAMES = """
aaron adam adolf adolphe adrian agnes agostino akihiko akihito akira alan albert alberto albrecht aleksi alena
alessandro alex alexander alexandra alexandre alexei alexey alexis alfons alfonse alfred alice alicia allen alphonse
alphonso alyssa amanda amedeo amy anato anders andre andrea andreas andree andrei andrew andrey andrzej andy angus ann
anna anne annibale annie anselm anthony antoine anton antoni antonio artem artemisia arthur artur asher ashley atey
aubrey audrey auguste barclay bartholomew basil bayard beatrix becky benjamin bernard bernie beth boris brad bradley
brandon brendan brett brian bruce camille carl carlo carlos carne carol caspar catherine cecil cecilia cedric charles
chesley chie chris christophe christopher cindy claire claude clint clive clyde coby conrad cornelis cory craig cyril
damien daniel daniela dante darek dariusz dave david dawid denis dennis derek didier diego dieter dimitri dino dmitry
donato dorothea dorothy doug duane dustin dylan ed eddie edgar edmund eduard edvard edward edwin egon eiko ellen
emanuele emil emile emiliano emma emmanuel enki enric eric erich erik erin ernest ernst esao ettore eugene evelyn
evgeny eytan eyvind fabio federico felicien felix feng ferdinand fernanda fernando filip filipe fiona flora francesco
francis francisco francois francoise franz frederic frederick frida friedrich fritz gabriel gabriele gaston gediminas
geoffroy georg george georges gerald gerard gerardo gerhard gertrude giorgio giovanni giuseppe glenn goro graham greg
gregory guido guillermo gustav gustave hajime hans harold harriet harry harumi hasui heather hedi heinrich helen
helene hendrik henri henriette henry herbert hermann hernan hieronymus hikari hilma hirohiko hiroshi howard hubert
hugh hugo ignacio igor ilya irakli irina isaac ismail istvan ivan jacek jacob jacques jaime jakub jama jamie jan jane
janet jarek jaroslaw jason jeff jeffery jeffrey jen jennifer jenny jeremiah jeremy jerome jesper jesse jessica jim
jimmy joachim joan joao joaquin joe joel johan johann johannes john johnny jonas jonathan joost jorge josan josef
joseph josephine josh joshua juan judith jules julia julian julie julien julius junji justin kaethe karel karen karl
karla karol kate katsuhiro katsuya kazimir kazuki kehinde keith kelly ken kenneth kentaro kerem kevin kilian
konstantin krenz kris larry laura laurel lauren laurie laurits lawrence leesha leo leon leonardo leonid leonora leslie
letizia liam lisa livia loretta louis louise lovis luca lucas lucian lucien ludwig luigi luis lukasz luke maarten
maciej magali magdalena makoto mandy manuel marc marcel marcin marco marcus margaret maria marianne mario mariusz
martin martina martine mary masamune mati matt matteo matthew mattias maurice max maxfield maxim maxime maya michael
michal michel mika mike mikhail miles milo miriam mitchell nan naoki naoto natalia natalie nathan neil nicholas nick
nicola nicolas nicoletta nikolai nikolay nina noah noriyoshi olaf oleg olga oliver olivier oscar oskar otto pablo
paolo pascal patrice patrick paul pavel pedro pete peter petros phil philip philipp philippe pierre pieter pietro pino
piotr quentin quint rachel rafael raffaello ralph randolph randy raymond rebecca rembrandt remedios rene rené reza
richard rick robert roberto rockwell rodney roger roland rolf roman ronald ryan ryohei sachin salvador samuel sandra
sandro santiago sarah sasha satoshi saul scott sean sebastian serge sergei sergey sergio shaun shigeru shinji shusei
simon slawomir sofonisba sophie stanislaw stanisław stanley stefan stefano stephan stephane stephanie stephen steve
steven stuart susan svetlana syd sylvain tadao takashi takato takehiko takeshi tamara tatsuki ted terry tetsuya theo
theodore thierry thomas tim timothy tino todd tom tomasz tomer tomoyuki tony travis trevor tristan tsutomu tuomas
tyler utagawa valentin valentina vasily victo victor viktor viktoria vilhelm vincent virgil vitaly vittorio vlad
vladimir wadim walt walter wangechi warren warwick wassily wayne wendy werner wilhelm willem william wojciech wolfgang
yanjun yasushi yayoi yoann yoji yoko yoshitaka yue yukito yuri yusuke yves zacharias zack zdzislaw zdzisław zhang
""".split()

# People who are subjects, although their first names are also first names of artists.
SUBJECTS = """
adam driver, adam sandler, amy adams, andrew garfield, andrew tate, angela merkel, anne hathaway, barack obama,
bernie sanders, boris johnson, brad pitt, britney spears, bruce lee, bruce willis, bryan cranston, carrie fisher,
charles manson, chris evans, chris hemsworth, chris pratt, chris rock, clint eastwood, daniel craig, daniel radcliffe,
danny devito, david tennant, donald trump, eddie murphy, ellen degeneres, elon musk, emma roberts, emma stone,
emma thompson, emma watson, eric andre, eric cartman, george bush, george clooney, george floyd, george washington,
harry potter, harry styles, helen mirren, henry cavill, hillary clinton, hugh jackman, hugh laurie, jason momoa,
jason statham, jeff bezos, jeff bridges, jeff goldblum, jennifer aniston, jennifer connelly, jennifer lawrence,
jessica alba, jessica chastain, jim carrey, jimmy carter, jimmy fallon, joe biden, joe rogan, john cena, john lennon,
john travolta, john wick, johnny cash, johnny depp, jonah hill, jordan peterson, julia roberts, julius caesar,
justin bieber, justin trudeau, kate beckinsale, kate upton, kate winslet, katy perry, kevin hart, kevin spacey,
kristen stewart, larry david, leonard nimoy, luke skywalker, margot robbie, maria sharapova, mark hamill,
mark zuckerberg, martin luther king, mary poppins, matt damon, matt smith, matthew mcconaughey, max payne, megan fox,
michael jackson, michael jordan, mike pence, mike tyson, mila kunis, natalie dormer, natalie portman, neil armstrong,
nicholas cage, nicolas cage, oscar isaac, patrick star, patrick stewart, paul mccartney, paul rudd, pedro pascal,
peter dinklage, peter griffin, peter parker, richard nixon, rick astley, rick sanchez, robert de niro,
robert downey jr, robert pattinson, ronald mcdonald, ronald reagan, ryan gosling, ryan reynolds, samuel l jackson,
sandra bullock, scarlett johansson, sean connery, simon cowell, snoop dogg, steve buscemi, steve carell, steve harvey,
steve irwin, steve jobs, super mario, taylor swift, tom cruise, tom hanks, tom hardy, tom holland, tom waits,
tony hawk, tony soprano, tony stark, vladimir lenin, vladimir putin, walter white, will smith, william shatner,
winston churchill
"""

# Words that end a name, or show that there is no name: "by the sea", "by candle light", "in art nouveau style".
NO_NAMES = """
a about above absolutely abstract across after against age alien all along amid among an and animal animals anime
another are armor army art artist artists artwork as at autumn background band beach beautiful bed before behind being
below beneath beside between big bird birds black blonde blue boat body book books both brick bridge bright bronze
brown building buildings bus bushes but cabin camera campfire candle candlelight candles canvas car cartoon castle cat
cave character church city clothes cloud clouds coast color colorful colors colour comic concept costume couch
creatures creek crystal dark dawn day death demons design desk detailed details digital dock dog door doorway dragon
dragons dress during dusk each elegant epic evil eyes face fantasy far featuring feet female fence field film fire
firelight fireplace fireside floating flowers fog foot for forest from front full game garden gas gate ghosts giant
girl glowing gold golden gothic grass green grey gun hair half hand hands harbor he headlights her herself high hill
hills him himself his holding horror horse house huge humans hundreds illustration in inside into is it its itself
jungle lake lamp lamplight landscape lantern lanterns large laser light lighting lightning lights like little looking
machine machines made magic magical man many massive me mechanical men mist modern monsters moon moonlight moonlit
mother mountain mountains movie my mysterious nature near neon night noon nuclear number ocean of off oil old on one
open or orange other our out over own painting palace park path people person photo photograph photography picture
pier pink plane plants pond pool portrait poster power product professional purple rail railroad railway rain red
render retro river road robot robots rock rocks roman roots round sea seaside she ship shore shot show side sitting
sketch sky small smoke snow soft someone something spaceship spring stairs standing star starlight stars statue stone
storm stream street style summer sun sunlight sunset surrounded swamp table tall teeth tentacles the their them
themselves these they this those thousands through to torches torchlight tower town train tree trees two under up us
valley very view village vines vintage walking wall walls war water waterfall waves wearing while white wild wind
window windows wings winter with without wolf wolves woman women wood wooden woods words yellow you young your youtube
zombies
""".split()

# After "in the style of" and before "style", these name a manner, not a person: movement, time, place, kind of work.
MANNERS = """
abstract academic aesthetic african album american ancient animation anime antique arabian art artwork aztec baroque
bauhaus biopunk block blueprint boho book box brutalism brutalist byzantine cards caricature cartoon cartoons celtic
century ceramic cg cgi charcoal children chinese cinema classic classical classicism claymation collage colorful comic
comics concept constructivism contemporary costume cover cubism cubist cyberpunk dada deco design dieselpunk digital
documentary drawing dutch dystopian early egyptian engraving era etching european expressionism expressionist
expressive fantasy fashion fauvism fiction film flat folk food footage french fresco fruits futurism futurist german
glass goth gothic graffiti graphic graphics greek grunge hieroglyphs hollywood horror icon illustration impressionism
impressionist impressionnisme indian industrial ink irish islamic italian japanese kawaii korean lego line linocut
lofi logo low magazine magazines manga mannerism map masters maximalism mayan medieval mexican minimalism minimalist
modern modernism modernist mosaic movement movie movies mughal mural native nativity neo neoclassical newspaper
nihonga noir nordic nouveau novel oil old op origami painting paintings paper pastel pencil persian photo photograph
photography photos pictures pixel pointillism polaroid pop portrait postcard poster posters postmodern pottery
prehistoric primitive print prints propaganda psychedelic pulp punk realism realist realistic regency renaissance
render retro rococo roman romantic romanticism russian school sci science scientific sculpture sepia sketch solarpunk
soviet stained steampunk sticker stickers still street surreal surrealism surrealist symbolism synthwave tapestry
tarot tattoo textile tim toy traditional tribal tv ukiyo ukiyoe urban vaporwave vector vhs victorian video viking
vintage watercolor watercolour western wood woodblock woodcut ww1 ww2 wwii
""".split()

# Content that a careful builder of a data set would drop. Fiction may fight, bleed and frighten: a warrior with a
# sword, a zombie and a bloodstained sweater are harmless. Opened bodies, nakedness as the subject, hatred and
# its symbols are not.
UNSAFE = {
    "sexual": r"""
(?:semi ?|half ?)?nud(?:e|es|ity|ist|ists|ism)
(?:half ?|butt ?|buck ?|stark ?)?naked(?:ness)?
nekkid|topless|undressed|unclothed|disrobed|undressing|pantsless
(?:no|without|wearing no|not wearing|lack of) (?:any )?(?:cloth(?:es|ing)|pants|panties|underwear|bra|top)
(?:take|takes|taking|took) off (?:her|his|their) (?:cloth(?:es|ing)|shirt|pants|top|bra)
nsfw|not safe for work|r ?34|rule 34|xxx|x rated|onlyfans
porn(?:o|s|ographic|ography|star|hub)?|hentai|ecchi|ahegao|yiff|futa(?:nari)?
erotic(?:a|ism|ally)?|lewd|horny|slut(?:s|ty)?|sluty|whores?|milfs?|dilf|kinky|orgasm(?:s|ic)?|aroused
sex(?! pistols| education| and the city)|sexual(?:ly|ized|ised)?|sexting|intercourse
fellatio|cunnilingus|blow ?jobs?|hand ?jobs?|masturbat\w*|orgy|orgies|gang ?bang|threesome|doggy ?style
fuck(?:s|ed|ing)? (?:her|him|me|you|each|an?)|cum(?: ?shot|ming)|covered in cum|creampie|bukkake|deepthroat
penis(?:es)?|phallus|phallic|dildos?|vibrators?|vaginas?|vulvas?|clitoris|pussy|pussies|genital(?:s|ia)?
scrotum|anus|buttplug
(?:big|huge|hard|erect|his|giant) (?:cock|dick)|dick ?pic|erection|foreskin
tits|titties|boobs?|boobies|nipples?|areolas?
(?:bare|big|enormous|exposed|giant|huge|large|massive|naked|perfect|voluptuous) (?:breasts?|bosoms?|buttocks)
(?:big|enormous|exposed|huge|large|massive|voluptuous) bust(?! (?:of|portrait|sculpture|statue|shot)\b)
(?:bare|big|enormous|exposed|giant|huge|large|massive|naked|perfect|voluptuous) (?:butts?|ass(?:es)?|boot(?:y|ies))
bare ?(?:breasted|chested woman|bottom|ass|butt)|breasts (?:exposed|visible|out|showing)|showing (?:her )?breasts?
upskirt|camel ?toe|g ?string|see ?through (?:dress|shirt|blouse|top|cloth(?:es|ing)|bikini|lingerie)
(?:sheer|translucent|transparent) (?:\w+ )?(?:blouse|bodysuit|bra|corset|dress|gown|lingerie|nightgown|skirt)
bdsm|bondage|fetish(?:es|istic)?|dominatrix|domme|shibari|latex fetish|strip(?:per|pers|tease)
incest\w*|bestiality|zoophil\w*|rap(?:e|ed|es|ing|ist)|molest\w*
""",
    "gore": r"""
gor(?:e|ey|y)(?! verbinski| tex| vidal)
decapitat\w*|behead\w*|dismember\w*|disembowel\w*|disemboweled|eviscerat\w*|mutilat\w*|disfigured corpse
entrails|intestines|viscera|innards|(?:bones?|flesh|his|her|their|its|spilled|spilling|meat) (?:and )?guts
guts (?:and (?:blood|gore)|spill\w*|hang\w*|everywhere)|organs (?:spill|hang|expos|everywhere)\w*
severed (?:heads?|arms?|legs?|limbs?|hands?|fingers?|foot|feet|body)
flayed (?:alive|man|woman|human|people|bod\w+|skin|face|corpse\w*|flesh)|skinned alive|skinless
impal(?:ed|ing|ement)|tortur(?:e|ed|ing)|vivisect\w*|lobotom\w*|cannibal\w*
(?:rotting|bloody|mangled|decomposing|mutilated|burned|burnt|charred|decayed|rotten) (?:corpses?|bod(?:y|ies)|cadavers?)
(?:pile|piles|heap|mountain|field|stack|sea) of (?:corpses|dead bodies|bodies|dead people|severed heads)
(?:dead|murdered|dying) (?:bab(?:y|ies)|child(?:ren)?|kids?|toddler)
(?<!sword )(?<!blade )(?<!axe )(?:covered|drenched|soaked|bathed|bathing|dripping|smeared|caked) (?:in|with) blood
blood ?(?:bath|soaked|drenched)|pools? of blood|blood (?:everywhere|splatter(?:s|ed)?|gushing|spurting)
blood and guts|spurting blood
massacre[ds]?|mass murder|slaughter(?:ed|ing)? (?:of )?(?:people|humans|children|civilians)|snuff film
assassinat(?:e|ed|ing|ion)(?! classroom)
(?:mass|school) shoot(?:ing|er|ers)|suicide bomb\w*|terrorist attack|9 ?/ ?11
execut(?:ed|ing) (?:by|people|prisoners)|crime scene photo
(?:head|brains?|face) (?:blown|exploding|ripped|torn) (?:off|out|apart|open)|exploding heads?
(?:devouring|eating) (?:an? (?:human|man|person|woman)|humans|people)(?! (?:shaped|sized)\b)|eating (?:babies|flesh)
human (?:flesh|meat)|stabb(?:ed|ing) (?:him|her|to death|people)
""",
    "hate": r"""
hate symbols?
swastikas?|nazis?|neo ?nazis?|nazism|hitler|third reich|waffen ss|gestapo|sieg heil
kkk|ku klux klan|klans?man|klansmen|white (?:power|supremac\w*|nationalis\w*)|confederate flag
racis(?:t|ts|m)|blackface|antisemit\w*|anti semit\w*|islamophob\w*|homophob\w*|misogyn\w*
holocaust|auschwitz|concentration camps?|gas chambers?|genocid\w*|ethnic cleansing|lynch(?:ed|ing|ings)|slave auction
nigg(?:er|a)s?|faggots?|trann(?:y|ies)|retard(?:s|ed)?
""",
    "self_harm": r"""
suicid(?:e|al|es)(?! squad)
self ?harm\w*|self ?mutilation|kill(?:s|ed|ing)? (?:my|him|her|your|them)sel(?:f|ves)
(?:cut|cuts|cutting|slit|slits|slitting|slashed) (?:(?:her|his|my|their|your|own) )*wrists?
hang(?:s|ed|ing) (?:him|her|my|them)sel(?:f|ves)|noose|anorexi(?:a|c)|bulimi\w*|pro ?ana|overdos(?:e|ed|ing)
shoot(?:s|ing)? (?:him|her|my)self
""",
    "minors": r"""
lolis?|lolitas?|lolicon|shota(?:con)?|jail ?bait|child porn\w*|pa?edo(?:phil\w*)?|under ?aged?
""",
}

# Phrases that contain unsafe words but are harmless.
HARMLESS = r"""
nude (?:lips?|lipstick|colou?r(?:s|ed)?|tones?|shades?|make ?up|heels|beige|pink|palette)
(?:against|fighting|fights|killing|punching|versus|vs) (?:the )?nazis?(?: germany)?
(?:no|not|non|without|zero|anti) (?:\w+ )?(?:nudity|nudes?|naked|gore|gory|nsfw|sex|sexual|nipples?|nazis?|porn|racism)
naked (?:eye|mole ?rats?|gun|trees?|branch\w*|snake|singularity|flame|lunch)
pussy ?(?:cats?|willows?|riot)|al gore|edward gorey|gothic lolita|sweet lolita|lolita (?:fashion|dress|style|outfit)
suicide squad|suicide doors
same sex|sex and the city|sex pistols|the hanged man|blood ?(?:orange|moon|line|hound|borne|stone|elf|elves|angels?)
guts (?:from|of) berserk
"""

YOUNG = r"""
child(?:ren|like|ish)?|kids?|toddlers?|infants?|bab(?:y|ies)|minors?|pre ?teens?
teen(?:s|age|aged|ager|agers)?|adolescents?|tweens?
(?:little|young|small) (?:\w+ )?(?:girls?|boys?)|school ?(?:girls?|boys?)|kindergart\w*
(?:[3-9]|1[0-7]) ?(?:years?|yrs?) ?old|(?:[3-9]|1[0-7]) ?(?:yo|y/o)
"""
SUGGESTIVE = r"""
sexy|sexier|sensual|seductive(?:ly)?|seducing|provocative|lingerie|pant(?:y|ies)|thongs?|underwear|bras?|bikinis?|skimpy
busty|cleavage|voluptuous|scantily|revealing (?:clothes|clothing|dress|outfit|top)|mini ?skirts?
micro ?(?:skirt|bikini)|short skirt|thigh ?highs
fishnets?|swimsuits?|thicc|tight (?:leggings|shorts|dress|clothes)|bare (?:legs|thighs|shoulders|midriff)
wet (?:shirt|t shirt|clothes)
"""
"""Patterns that are harmless for adults, but unsafe together with a word of YOUNG."""

# Parts of compounds that a tokenizer split at the hyphen. They are joined again.
PREFIXES = """
alma ant anti award bat bio cel cell chain close cross didier e etienne ex eye fish full ghibli gi half he hi high hip
hsiao hyper hyung in inter jacques jean ki kim lapis lecouffe lo low make mega mid mind multi neo non obi pac papier
photo pierre pin post pre proto pseudo ray sci scooby see self semi short spider sub super t three toulouse two u
ukiyo ultra un upside v well wi wide william x yin yog yu
""".split()
SUFFIXES = """
adolphe adult aged angle apocalyptic armed armored baptiste based blooded blown body chan classical colored coloured
core covered de detailed drawn dressed esque eyed faced fi filled focus footed fructose furred haired handed headed
inspired kun legged length like lined lipped lit looking made man manned masted minded old panel piece pitched plated
quality raphaelite realistic rimmed ron sama san sci shaded shaped shaven shot sided size sized skinned sleeved soaked
speed story styled suit tae tailed tech themed tier toned trimmed up winged winning year years
""".split()

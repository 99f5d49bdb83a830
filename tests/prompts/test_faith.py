"""Which rewrites of a language model are accepted: on examples written by hand, and properties that always hold."""

import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpctl.contracts import Polished
from vpctl.prompts.cleaning import polish
from vpctl.prompts.faith import checked, reason_added, reason_lost

# Prompts of DiffusionDB (CC0), marked "=". Below each one are rewrites as a model would write them. "+" must be
# accepted. "-" must be rejected, because it adds something or leaves out the subject. "!" marks cases that the checks
# are known to get wrong.
REWRITES = """
= porg cosmic horror, 4 k, star wars, trending on artstation
+ A porg from Star Wars as a cosmic horror.
- A porg standing in a ruined temple, cosmic horror, Star Wars.
-! Cosmic horror from Star Wars.
= an anthropomorphic black goat wizard in world of warcraft, screenshot
+ A World of Warcraft screenshot of an anthropomorphic black goat wizard.
- A World of Warcraft screenshot.
- An anthropomorphic black goat wizard casting a spell in World of Warcraft.
= a golden river winding through a nebula by thomas kinkade and peter elson and jack gaughan and delphin enjolras, and
  dali, blue mood, blue light
+ A golden river winding through a nebula in blue light.
- A golden river winding through a nebula towards a distant castle.
- A blue mood.
= photo of standing werewolf monster caught on a trail cam
+ A photo of a werewolf monster standing, caught on a trail camera.
- A photo of a trail.
- A photo of a werewolf monster in a dark forest caught on a trail cam.
= joe biden rolling a joint in a messed up apartment, stoned eyes, smoke, beautiful digital art, amazing detail,
  artstation, award winning, sharp
+ Joe Biden with stoned eyes rolling a joint in a messy apartment filled with smoke.
- Joe Biden in an office with a flag.
- A messed up apartment with smoke.
= psychedelic organic cthulhu mindflayer, gems jewels, diffuse lighting, very very intricate, very very elegant, highly
  detailed, lifelike, photorealistic, digital painting, artstation, illustration, concept art, smooth, HR GIGER ,
  Hieronymous Bosch, Francis Bacon sharp focus, art by Greg Rutkowski and John Collier and Albert Aublet
+ A psychedelic, organic Cthulhu mindflayer with gems and jewels.
- A digital painting of gems and jewels.
- A psychedelic octopus monster covered with gems and jewels.
= attractive young male dwarven warrior with a long black braided beard wearing chainmail armor, character portrait,
  concept art, intricate details, highly detailed photorealistic portrait in the style of adam hughes, seseon yoon,
  artgerm and warren louw
+ Portrait of an attractive young dwarf warrior with a long black braided beard, wearing chainmail armor.
- A young male elf archer with a long black braided beard wearing leather armor.
- A character portrait.
= exploration spaceship flying over an earth-like planet in deep space, cinematic perspective, cinematic lighting, Syd
  Mead
+ An exploration space ship flies over an earthlike planet in deep space.
- An exploration spaceship with three astronauts flying over an earth-like planet.
- An earth-like planet.
= photo of a blond middle long hair man with parasitic snail eyes taking a selfie in the forrest
+! A photo of a man with medium-long blond hair and parasitic snail eyes taking a selfie in the forest.
- A photo of a woman with snail eyes taking a selfie at the beach.
- A selfie in the forest.
= a beautiful portrait of a fire goddess by greg rutkowski and raymond swanland, trending on artstation, flaming
  background, ultra realistic digital art
+ A portrait of a fire goddess against a flaming background.
- A portrait of a fire goddess by Greg Rutkowski holding a flaming sword.
- A portrait with a flaming background.
= anime style, vivid, expressive, full body, 4 k, painting, a cute magical girl with a long wavy black hair wearing a
  nurse outfit, stunning, realistic light and shadow effects, neon lights, centered, simple background, studio ghibly
  makoto shinkai yuji yamaguchi
+ A full-body anime painting of a cute magical girl with long wavy black hair wearing a nurse outfit, with neon lights
  and a simple background.
- A cute magical girl with long wavy black hair and a wand in a hospital.
- An anime painting with a simple background.
= gothic vampire ritual altar, great old ones, yog - sothoth, r'lyeh, shub - niggurath, cosmic horror, wet gloss metal
  render, close up dragon eyes orbs glow iridescent, psycho nebula colors, galaxy nebula planets, photoluminescence
  reflective spectral colors, award winning photograph, unreal engine, realism, wings
+ A gothic vampire ritual altar of the Great Old Ones with glowing iridescent dragon eyes, wings and nebula colors.
- A galaxy with planets.
- A priest stands before a gothic vampire ritual altar lit by candles.
= anthropomorphic beer berserker, intricate, elegant, highly detailed animal monster, digital painting, artstation,
  concept art, smooth, sharp focus, illustration, art by artgerm and greg rutkowski and alphonse mucha, 8 k
+ A digital painting of an anthropomorphic beer berserker, an animal monster.
- A bear warrior with an axe.
- A digital painting.
= Throne Room of the Shaman Owl King, by Peter Mohrbacher
+ The throne room of the Shaman Owl King.
- The throne room of a king.
- The Shaman Owl King sits on a golden throne in his throne room.
= lion warrior standing in ancient ruined castle, feral humanoid with feline head and a thick, crimson mane. wielding a
  ornamented great sword, full body concept, wearing tribal armor, sharp focus, hyperdetailed, beksinski, greg
  rutkowski, edward hooper, trending on artstation
+ A feral humanoid lion warrior with a feline head and a thick crimson mane, wearing tribal armor and wielding an
  ornamented great sword, stands in an ancient ruined castle.
- A warrior stands in a castle at dawn while dragons circle above.
- An ancient ruined castle.
= adorable portrait of medieval anthropomorphic artic fox ranger with a fluffy tail in the forest, comic art, trending
  on furaffinity, cartoon, kawaii, backlighting, furry, radiant light, bokeh, fairytale illustration, trending on
  artstation, digital art
+ A comic art portrait of a medieval anthropomorphic arctic fox ranger with a fluffy tail in the forest.
- A portrait of a fluffy squirrel in the forest.
- A forest.
= Man in his 40s, dark blond hair with a beard, thick dark glasses, wearing red stripe shirt jean and multicolor shoes,
  ambient light, dynamic lighting
+ A man in his forties with dark blond hair, a beard and thick dark glasses, wearing a red striped shirt, jeans and
  multicolored shoes.
- A man in his 40s sits at a cafe table with a newspaper, wearing a red shirt.
- Multicolor shoes.
= anime visual, portrait of a young female at the park at night long hair, low light, cute face by ilya kuvshinov, yoh
  yoshinari, makoto shinkai, dynamic pose, dynamic perspective, muted colors, cel shaded, flat shading mucha, rounded
  eyes, detailed facial features, anime movie, film
+ Anime portrait of a young woman with long hair and rounded eyes in a park at night.
- Anime portrait of a young woman with an umbrella in the rain.
- A park at night.
= peanut butter and gumballs on pizza, food photography
+ Peanut butter and gumballs on a pizza.
- A pizza.
- Peanut butter, gumballs and cheese on pizza, food photography.
= a very handsome young man in the 1 9 5 0 s, he is at camp, a photographic
+ A photograph of a very handsome young man at camp in the 1950s.
- A photograph of a camp.
- A photograph of a very handsome young man in the 1980s at camp.
= “sphere shaped spaceships hovering above Mars, sci-fi concept art, 8k, by John Harris, by john Berkey, mechanical
  space hornets, digital art”
+ Sphere-shaped spaceships and mechanical space hornets hover above Mars.
- Sphere-shaped spaceships hovering above Jupiter.
- Mechanical hornets.
= tree surrounded by pink smoke and fire, during red sunset in city park
+ A tree surrounded by pink smoke and fire in a city park during a red sunset.
- A tree in a park.
- People watch a tree surrounded by pink smoke and fire in a city park at sunset.
= orange tabby cat stretching
+ An orange tabby cat stretching.
- An orange tabby stretching on a sofa.
- Orange.
= a lobster-tortoise-jellyfish, wildlife photography
+! Wildlife photography of a lobster tortoise jellyfish hybrid.
- A lobster on the beach, wildlife photography.
- Wildlife photography.
= film still close up shot of dwayne johnson as hannibal lector from the movie the silence of the lambs. photographic,
  photography
+ A close-up film still of Dwayne Johnson as Hannibal Lecter from The Silence of the Lambs.
- A close-up of Anthony Hopkins in The Silence of the Lambs.
- A film still from the movie.
= a car Toyota Chaser twin-turbo at illegal car meet, Saitama prefecture, city sunset mist neon lights, cinematic
  color, photorealistic, highly detailed, 200MM
+ A Toyota Chaser twin turbo car at an illegal car meet in Saitama Prefecture, with city sunset mist and neon lights.
- A Toyota Chaser races a police car through the streets of Saitama.
- City sunset mist.
= female mage, fire emblem, art by artgerm and greg rutkowski and magali villeneuve, portrait, d & d, fantasy, highly
  detailed, digital painting, trending on artstation, concept art, sharp focus, illustration
+ A fantasy portrait of a female mage from Fire Emblem.
- A fantasy portrait.
- A fantasy portrait of a female mage with a glowing staff.
= tiled room squared waterway, fantasy. intricate, amazing composition, colorful watercolor, by ruan jia, by maxfield
  parrish, by marc simonetti, by hikari shimoda, by robert hubert, by zhang kechun, illustration, gloomy
+ A colorful watercolor of a gloomy tiled room with a squared waterway.
- A colorful watercolor.
- A gloomy tiled room with a swimming pool.
= late 2 0 0 0's anime dystopian cyberpunk movie still : : machine hall interior art : : biomechanical buff killer
  robot : : somber far future cables lab shadowed background : : faceless staring murderously
+ A late 2000s dystopian cyberpunk anime movie still of a faceless, buff, biomechanical killer robot staring murderously
  in a machine hall with a shadowed lab background full of cables.
- A dystopian city with flying cars.
- An anime movie still.
= 3 d, octane render, ultra, 8 k, photorealistic, a wooden sculpture, art toys, on a pedestal, a very cute mystical
  robot, concept art artwork masterpiece, in a contemporary art gallerie
+ A wooden sculpture of a very cute mystical robot on a pedestal in a contemporary art gallery.
- A pedestal in an art gallery.
- A marble sculpture of a cute angel on a pedestal in a contemporary art gallery.
= Wonder Woman with Chris Hemsworth face, Vogue cover photo
+ A Vogue cover photo of Wonder Woman with Chris Hemsworth's face.
- A Vogue cover photo.
- A Vogue cover photo of Wonder Woman with Chris Evans' face.
= an epic painting space station, oil on canvas, cold colors, perfect composition, golden ratio, beautiful detailed,
  photorealistic, digital painting, artstation, concept art, smooth, sharp focus, illustration, cyberpunk background,
  artstation trending, octane render, unreal engine
+ An oil painting of a space station in cold colors with a cyberpunk background.
- A painting of a spaceship orbiting Saturn in cold colors.
- A cyberpunk background in cold colors.
= a portrait of a beautiful young male wearing an alexander mcqueen armor made of bones , photographed by andrew thomas
  huang, artistic
+ A portrait of a beautiful young man wearing Alexander McQueen armor made of bones.
- A portrait.
- A portrait of a beautiful young man wearing silk robes and a crown.
= oil painting portrait of a man in dark robes, hooded, made by greg rukowtski, fantasy, moodly
+ A moody oil painting portrait of a hooded man in dark robes.
- An oil painting portrait of a hooded man in dark robes holding a candle.
- Dark robes.
= a round alien head horror skull with a single antenna on top of the skull!!, dripping blood, minimal, spray paint
  logo by tom whalen
+ A spray-painted logo of a round alien horror skull with a single antenna on top, dripping blood.
- A logo.
- A round alien head with two antennas and glowing eyes.
= a maasai warrior with wakandan style armor, ultra realistic, concept art, intricate details, eerie, horror, highly
  detailed, photorealistic, octane render, 8 k, unreal engine. art by artgerm and greg rutkowski and alphonse mucha
+ A Maasai warrior in Wakandan-style armor with an eerie horror mood.
- Eerie horror.
- A Maasai warrior with a spear on the savannah.
= crossroad leading into distant snowy mountain, lush fantasy landscape, artstation, photorealistic
+ A crossroads leading to distant snowy mountains in a lush fantasy landscape.
- A lush fantasy landscape.
- A traveller at a crossroad leading to a distant snowy mountain.
= artbook drawing of a small farm house in a pleasant meadow, tall trees and sunny skies with puffy clouds, concept
  art, detailed, warm colors, global illumination, intricate, heavenly
+! A drawing of a small farmhouse in a pleasant meadow with tall trees under a sunny sky with puffy clouds.
- A drawing of cows grazing in a pleasant meadow near a small farm house.
- Puffy clouds.
= dixit card, mushroom, spots, stripes, high fantasy, snakes and ladders, japanese flower garden, labyrinth, picnic,
  cryptid, intricate, amazing composition, colorful watercolor, by ruan jia, by maxfield parrish, by shaun tan, by nc
  wyeth, by michael whelan, by escher, illustration, volumetric, bloom, sun puddle
+ A Dixit card in colorful watercolor of a mushroom, snakes and ladders, a cryptid and a picnic in a Japanese flower
  garden labyrinth.
- A colorful watercolor of the sun.
- A family having a picnic in a Japanese garden.
= photographic portrait of a stunningly beautiful english renaissance female in soft dreamy light at sunset, beside the
  river, soft focus, contemporary fashion shoot, in a denis villeneuve and tim burton movie, by edward robert hughes,
  annie leibovitz, extremely detailed, breathtaking, hyperrealistic, perfect face, octane render
+ A photographic portrait of a beautiful English Renaissance woman beside the river at sunset.
- A photographic portrait of the river at sunset.
- A photographic portrait of a beautiful English queen and her dog beside the river at sunset.
= illustration of a spaceship floating in the clouds dramatic, artstation
+ An illustration of a spaceship floating in the clouds.
- An illustration of clouds.
- An illustration of a spaceship floating in the clouds above a city.
= naruto uzumaki, anime key visual, artstation, kuvshinov ilya
+ An anime key visual of Naruto Uzumaki.
- An anime key visual.
- An anime key visual of Naruto Uzumaki and Sasuke Uchiha.
= twin daggers, deep focus, d & d, fantasy, intricate, elegant, highly detailed, digital painting, artstation, concept
  art, matte, sharp focus, illustration, hearthstone, art by artgerm and greg rutkowski and alphonse mucha
+ Twin daggers, fantasy, in the style of Hearthstone.
- A fantasy rogue with twin daggers.
- A fantasy illustration.
= Donald Trump. Pouting. Zdzisław Beksiński
+ Donald Trump pouting.
- Donald Trump pouting at a podium.
- Pouting.
= a dog that looks exactly like goofy from disney, realistic, extremely detailed, full body shot, 4 k, cute, funny,
  professional photography
+ A full-body photograph of a cute, funny dog that looks exactly like Goofy from Disney.
- A full-body photograph of a cute dog wearing a green hat.
- A professional photograph.
= portrait of a feminine male dark elf, dark obsidian skin, white tatoo, long hair, fantasy, elegant, intricate, highly
  detailed, digital painting, artstation, concept art, sharp focus, illustration
+ A fantasy portrait of a feminine male dark elf with dark obsidian skin, a white tattoo and long hair.
- A fantasy portrait of a dark elf woman with a silver sword.
- Long hair, fantasy.
= viscera eyes, surreal colorful clay artstation concept art, action pose, very coherent and colorful high contrast
  masterpiece by norman rockwell franz sedlacek hieronymus bosch dean ellis rene magritte gediminas pranckevicius, dark
  shadows, sunny day, hard lighting, reference sheet white! background
+ Surreal colorful clay art of viscera eyes in an action pose on a sunny day with dark shadows and a white background.
- Surreal colorful clay figures dancing.
- A white background.
= joyful laughing beautiful asian teenager with a face covered in freckles and wild wildflower pastel hair by disney
  concept artists, backlit, moody, intense, intricate, looking up, indie studio, fantasy, moody, rim lighting, vibrant
  pastel colors, emotional, sketch, fantastical, whimsical, noise, dappled light, stippling
+ A joyful, laughing Asian teenager with a freckled face and wild wildflower pastel hair looking up.
- A laughing Asian teenager in a field of wildflowers at sunrise.
- A whimsical sketch.
= an extreme close up photo of a Mexican supermodel female, in her early 20s
+ An extreme close-up photo of a female Mexican supermodel in her early twenties.
- An extreme close-up photo of a Mexican supermodel smiling on a runway.
- An extreme close-up photo.
= geometric 3 d render, dark color palate, mountains with a crescent moon stars
+! A geometric 3D render of mountains with a crescent moon and stars in a dark color palette.
- A geometric 3D render of mountains and a lake with a crescent moon.
- A geometric 3D render.
= a lovecraftian painting of a demonic shrine, occult, moster summoning, warlocks ritual, cosmic horror elements, ultra
  realistic, concept art, intricate details, eerie, highly detailed, photorealistic, octane render, 8 k, unreal engine.
  art by artgerm and greg rutkowski and alphonse mucha
+! A Lovecraftian painting of a demonic shrine where warlocks perform a ritual summoning a monster.
- A Lovecraftian painting of a lighthouse.
- An eerie painting.
= movie film still of ruined city buildings, skulls, night, cloudy, killer robots, terminator, dystopian, highly
  detailed, 4 k, art by artgerm
+ A film still of ruined city buildings, skulls and killer robots on a cloudy, dystopian night.
- A film still of a soldier running from killer robots in a ruined city.
- A film still at night.
= an anime cover for an undead toxic biohazard fox wizard with visibly skeletal jaws, a large albino peacock tail,
  walking through foggy city under starry skies, spooky, halloween decorations, fireflies, anime, peaceful, grainy, neon
  green, black, vhs, art by yuji ikehata
+ An anime cover of an undead toxic biohazard fox wizard with skeletal jaws and a large albino peacock tail walking
  through a foggy city under a starry sky with Halloween decorations and fireflies.
- An anime cover of a foggy city.
- An anime cover of a fox wizard and his apprentice in a foggy city.
= portrait of reptilian monk, digital painting, artstation, concept art, by donato giancola, Sean Yoro, Greg Rutkowski,
  trending on Artstation, Joseph Christian Leyendecker, WLOP, Boris Vallejo, dark, moody, foggy
+ A dark, moody portrait of a reptilian monk in fog.
- A portrait of a monk praying in a monastery.
- A dark, moody portrait.
= A film still of Donald Trump a as Jedi king wearing his outfit realistic,detailed
+ A film still of Donald Trump as a Jedi king wearing his outfit.
- A film still of Donald Trump as a Jedi king holding a lightsaber.
- A film still of a king.
= portrait, female dwarf queen, bronze dwarven breastplate, elaborate braided hair, regal and proud robust woman, bold
  serious expression, style by donato giancola, wayne reynolds, jeff easley dramatic light, high detail, cinematic
  lighting, artstation, dungeons and dragons, throne room,
+ A portrait of a regal, proud and robust dwarf queen with elaborately braided hair, wearing a bronze dwarven
  breastplate, with a bold, serious expression in a throne room.
- A portrait of a queen in a throne room.
- A dwarf queen with braided hair and a golden crown in a throne room.
= Homestar Runner shaped teapot, product photo, white background
+ A product photo of a teapot shaped like Homestar Runner on a white background.
- A product photo on a white background.
- A product photo of a blue teapot and cups on a white background.
= gigantic skull of evil cosmic flames, perfect symmetry, mandala, fantasy painting, ultra realistic, wide angle, art
  nouveau, intricate details, digital painting, rainbowshift, vivid colors, highly detailed by peter mohrbacher, h. r.
  giger, maxfield parrish, craig mullins, octane render, cgi
+ A fantasy painting of a gigantic skull of evil cosmic flames with a symmetrical mandala.
- A fantasy painting of a mandala.
- A gigantic skull of evil cosmic flames above a burning city.
= oil painting of man in suit with mandelbrot fractal as head
+ An oil painting of a man in a suit with a Mandelbrot fractal for a head.
- An oil painting of a Mandelbrot fractal.
- An oil painting of a man in a suit and tie with a Mandelbrot fractal as head.
= an hourglass shaped walnut board with heavily carved ruts and multicolered beads fastened to it, vintage, antique
+ A vintage, antique hourglass-shaped walnut board with heavily carved ruts and multicolored beads fastened to it.
- A walnut table with beads.
- Multicolored beads.
= page from a medieval manuscript on summoning demons, occult symbols, illustrations of plants, open book, highly
  detailed, pentagram, fantasy art
+ A page from an open medieval manuscript on summoning demons, with occult symbols, a pentagram and illustrations of
  plants.
- A page from a book.
- A wizard reads a medieval manuscript on summoning demons.
= photography of an astronaut sitting in a spaceship, futuristic, 8 k, dramatic lighting
+ A photograph of an astronaut sitting in a futuristic spaceship.
- A photograph of a spaceship.
- A photograph of an astronaut sitting in a futuristic spaceship looking at Earth.
= a black girl with a colorful afro and big beautiful eyes dressed like a samurai, bright colours, watercolor,
  volumetric wool felting, macro photography, children illustration, by goro fujita
+ A watercolor of a Black girl with a colorful afro and big eyes dressed like a samurai.
- A watercolor of bright colours.
- A watercolor of a Black girl dressed like a samurai holding a katana.
= White shepperd dog and Maine coon cat, digital art
+ Digital art of a white shepherd dog and a Maine Coon cat.
- Digital art of a cat.
- Digital art of a white shepherd dog and a Maine Coon cat on a sofa.
= centered painted portrait, face of wrinkled man with pale skin and wearing a black eye - mask, gloomhaven, matte
  painting concept art, art nouveau, beautifully backlit, swirly vibrant color lines, muted and dull colors, aesthetic
  octane render, 4 k 8 k hd resolution, by ilya kuvshinov and cushart krentz and gilleard james
+! A painted Art Nouveau portrait of a wrinkled man with pale skin wearing a black eye mask.
- An Art Nouveau portrait in muted colors.
- A painted portrait of a pirate with a black eye patch.
"""


def rewrites() -> Iterator[tuple[str, str, str]]:
    """Yield the prompt, the mark and the text of every rewrite."""
    prompt = ""
    for line in REWRITES.strip().replace("\n  ", " ").splitlines():
        mark, _, text = line.partition(" ")
        if mark == "=":
            prompt = text
        else:
            yield prompt, mark, text


PROMPTS = list(dict.fromkeys(prompt for prompt, _, _ in rewrites()))
MOST_WRONG = 0.1
"""Maximum share of good rewrites that may be rejected. A rewrite that is rejected in error is polished by rules."""


def test_rewrites_by_hand_are_taken_and_rejected_as_they_are_to_be() -> None:
    for prompt, mark, text in rewrites():
        taken = not checked(prompt, text).rejected
        assert taken == (mark in ("+", "-!")), f"{prompt} -> {text}: {checked(prompt, text).rejected!r}"
    marks = [mark for _, mark, _ in rewrites()]
    assert marks.count("+!") <= MOST_WRONG * (marks.count("+") + marks.count("+!"))
    assert marks.count("-!") <= MOST_WRONG / 5 * marks.count("-")


@pytest.mark.parametrize(
    ("prompt", "rewrite"),
    [
        ("two wolves, 1 9 5 0 s, sci - fi", "2 wolves in 1950s sci-fi"),
        ("wolf riding a horse", "A wolf rides a horse"),
        ("wood house, snowy mountains", "A wooden house on a snow mountain"),
        ("a space ship, farmhouse", "A spaceship and a farm house"),
        ("cat's eye", "The eye of a cat"),
        ("children of the corn", "A child of the corn"),
        ("the artic fox in a forrest", "The arctic fox in a forest"),
        ("portrait of a young female", "Portrait of a young woman"),
        ("watercolor of a café by Beksiński", "A watercolor painting of a cafe"),
        ("a cat, canon 5 d, bokeh", "A photograph of a cat"),
        ("u.s. tank, dr. strange, 8k", "A U.S. tank with Dr. Strange"),
        ("a cat", "A photograph of a cat"),
        ("warriors of wakanda, stripe", "A striped Wakandan warrior"),
        ("a cat on a mat by zorblax xilten", "A cat on a mat"),
        ("a tree surrounded by rage, horses raging", "A tree surrounded by raged horses"),
        ("a street, no people", "A street without people"),
        ("un gato negro, silla roja, octane render", "Un gato negro con una silla roja"),
        ("рыжий кот сидит на окне, 8k", "Рыжий кот сидит на окне"),
        ("一只猫坐在椅子上, 8k", "椅子上的一只猫"),
    ],
)
def test_another_form_of_the_words_is_no_addition(prompt: str, rewrite: str) -> None:
    assert not checked(prompt, rewrite).rejected


@pytest.mark.parametrize(
    ("prompt", "rewrite", "why"),
    [
        ("a cat, 8k", "A cat in a castle", "adds 'castle'"),
        ("a plan", "A plane", "adds 'plane'"),
        ("forrest, artic, castel, dragonn, wizzard", "Forest, arctic, castle, dragon, wizard", "adds 'castle'"),
        ("forrest, artic, dragonn, wizzard", "Forest, arctic, dragon, wizard", "adds 'wizard'"),
        ("oil painting of a cat", "A photograph of a cat", "adds 'photograph'"),
        ("a dog and a cat", "A dog behind a cat", "adds 'behind'"),
        ("a cat, sofa", "A cat without a sofa", "adds 'without'"),
        ("2 cats", "Three cats", "adds 'three'"),
        ("three dogs and a red ball", "Dogs and a red ball", "does not say how many: 'three dogs'"),
        ("a street with no people", "A street with people", "turns 'no people' round"),
        ("a gray cat on a red sofa", "A red sofa", "loses the subject 'cat'"),
        ("woman portrait in a red room", "A red room", "loses the subject 'woman'"),
        ("a beautiful portrait of a fire goddess", "A portrait", "loses the subject 'goddess'"),
        ("cat, dog, horse, sheep, red barn, hill", "A cat", "keeps 1 of 7 words of content, not 'dog'"),
        ("a cat", "", "loses the subject 'cat'"),
        ("a cat", "A cat. It is a cat.", "2 sentences"),
        ("a cat", "In the style of a picture of a scene with a cat", "longer than the original: 12 words, 7 at most"),
        ("a cat, 8k", "I cannot help with that", "adds 'cannot'"),
        ("un gato en una silla", "A cat on a chair", "adds 'cat'"),
        ("рыжий кот на окне", "A red cat on a window", "adds 'red'"),
        ("рыжий кот сидит на окне", "Рыжий кот сидит на дереве", "adds 'дереве'"),
        ("一只猫坐在椅子上", "一只狗坐在椅子上", "adds '狗'"),
        ("🐔 🍧", "A chicken", "adds 'chicken'"),
    ],
)
def test_what_is_rejected_says_why(prompt: str, rewrite: str, why: str) -> None:
    assert checked(prompt, rewrite).rejected == why


def test_noise_that_a_model_left_is_taken_away_and_is_no_reason_to_reject() -> None:
    assert checked("a cat, 8k", "A highly detailed cat, trending on artstation.", "gore") == Polished("A cat", "gore")


@pytest.mark.parametrize("prompt", ["8k, trending on artstation", "🐔 🍧", "", "highly detailed"])
def test_what_shows_nothing_may_become_empty(prompt: str) -> None:
    assert checked(prompt, "") == Polished("")


def test_a_word_with_an_apostrophe_may_be_written_apart_or_without_it() -> None:
    prompt = "the sunken city of r'lyeh"
    assert [reason_added(prompt, text) for text in ("the city of r lyeh", "rlyeh, a sunken city")] == ["", ""]
    assert reason_added(prompt, "the sunken city of lyehra") == "adds 'lyehra'"


@given(st.sampled_from(PROMPTS), st.data())
def test_words_of_the_prompt_in_any_order_add_nothing(prompt: str, data: st.DataObject) -> None:
    words = data.draw(st.permutations(re.findall(r"[^\W\d_]+", prompt)))
    assert reason_added(prompt, " ".join(words)) == ""


@given(st.sampled_from(PROMPTS), st.sampled_from("zeppelin quokka teaspoon gazebo volleyball".split()), st.integers(0))
def test_a_foreign_word_is_found_wherever_it_stands(prompt: str, word: str, place: int) -> None:
    words = polish([prompt])[0].prompt.split()
    words.insert(place % (len(words) + 1), f" {word} ")
    assert reason_added(prompt, " ".join(words)) == f"adds {word!r}"


@given(st.sampled_from(PROMPTS))
def test_what_the_rules_make_of_a_prompt_is_faithful_and_stays(prompt: str) -> None:
    clean = polish([prompt])[0].prompt
    assert reason_added(prompt, clean) == reason_lost(prompt, clean) == ""
    assert checked(prompt, clean).prompt == clean


@given(st.sampled_from(PROMPTS), st.sampled_from([text for _, _, text in rewrites()]))
def test_to_polish_what_came_out_changes_nothing(prompt: str, rewrite: str) -> None:
    once = checked(prompt, rewrite)
    assert checked(prompt, once.prompt) == once


@given(st.sampled_from(PROMPTS), st.sampled_from(PROMPTS))
def test_a_rewrite_of_another_prompt_is_rejected(prompt: str, other: str) -> None:
    assert prompt == other or checked(prompt, polish([other])[0].prompt).rejected


@given(st.text(), st.text())
def test_any_text_gets_a_verdict_and_what_is_taken_shows_something(prompt: str, rewrite: str) -> None:
    result = checked(prompt, rewrite)
    assert result.rejected or result.prompt or not reason_lost(prompt, "")

"""The commonest function words of languages that share English's alphabet, to tell that a text is not English."""

from __future__ import annotations

from relearn.text.common_words import word_set

# Words that are English words too ("in", "an", "as") are left out.
OTHER_LANGUAGES: dict[str, frozenset[str]] = {
    "Spanish": word_set("el la los las de del que y en un una es por con para se su al lo como más pero fue nació"),
    "French": word_set("le la les des du de et est une un dans pour que qui sur au aux avec il elle ne pas sa son l"),
    "German": word_set("der das und ist ein eine einer den dem des mit von zu für auf nicht sich sie er im ihr am als"),
    "Italian": word_set("il lo la gli di che e un una è per con del della nel nella si sono da al come ha suo sua"),
    "Portuguese": word_set("o os as da do das dos de que e em um uma para com não por na ao se é sua seu mais foi"),
    "Dutch": word_set("de het een en van ik te dat die niet zijn op aan met voor hij zij er maar om werd haar"),
    "Swedish": word_set("och att det en ett som på är av för med den till han hon inte var sig hans hennes född"),
    "Norwegian": word_set("og det en et som på er av for med den til han hun ikke var seg hans hennes født i"),
    "Finnish": word_set("ja on ei se hän että oli joka kun mutta niin myös ovat hänen vuonna sekä tai kuin"),
    "Polish": word_set("i w z na do się nie że jest jak o po od za przez który jego jej oraz był była się"),
    "Czech": word_set("a v se na je že z s do o i to jako ve za po pro byl byla který její jeho"),
    "Turkish": word_set("ve bir bu için ile olarak çok da de gibi daha olan sonra kadar ama onun olan en"),
    "Indonesian": word_set("dan yang di dengan untuk dari pada adalah ini itu tidak ke dalam sebagai oleh juga ia"),
    "Vietnamese": word_set("và là của có một cho các được trong với không người những đã này từ ở tại"),
    "Hungarian": word_set("a az és hogy nem egy is volt meg ez már csak mint volt aki amely született el"),
    "Romanian": word_set("și de la în cu este pe un o care din pentru nu sa se că mai a fost al ale"),
    "Swahili": word_set("na ya wa kwa ni katika la za cha kama yake au ambayo hii huyo alikuwa yeye"),
}
